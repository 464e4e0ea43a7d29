"""Reports, tables, figures and drawings made from predictions."""
