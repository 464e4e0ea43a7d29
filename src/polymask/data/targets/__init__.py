"""Writers of data sets, one per layout, the counterparts of the readers in `data/sources/`."""
