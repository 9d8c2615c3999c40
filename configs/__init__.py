"""The studies, one file each; base.py has the sections and presets."""
