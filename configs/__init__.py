"""The studies, one file each; base.py has every key and the presets."""
