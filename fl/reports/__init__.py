"""Reports of a finished run: examination, ablation and cards. HTML: `html`, and the templates in templates/."""
