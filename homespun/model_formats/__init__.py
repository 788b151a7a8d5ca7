"""Files of trained models flow in; models as they are stored, checked, come out. One file per format."""
