"""Readers of data sets on disk: each returns the records and the names of the classes."""

from polymask.utils.lazy import lazy_names

__getattr__ = lazy_names(
    __name__,
    {
        "read_coco": "coco",
        "read_ctc": "ctc",
        "read_ham10000": "ham10000",
        "read_image_masks": "image_masks",
        "read_images": "images",
        "read_isic2016": "isic2016",
        "read_label_maps": "label_maps",
        "read_mask_objects": "mask_objects",
        "read_volume_folders": "volume_folders",
    },
)
