"""Settings of `make html`: exported HTML keeps the alternative texts of pictures, which nbconvert's template drops."""

import html

from nbconvert.preprocessors import Preprocessor


class AlternativeTexts(Preprocessor):
    """Replace each picture that has an alternative text in its metadata by an HTML element that has it, too."""

    enabled = True

    def preprocess_cell(self, cell, resources, index):
        """Return (cell, resources), the cell with its described pictures as HTML."""
        for output in cell.get("outputs", []):
            described = output.get("metadata", {}).get("image/png", {})
            if described.get("alt") and "image/png" in output.get("data", {}):
                source = f"data:image/png;base64,{output.data['image/png'].strip()}"
                width = f"width: {described['width']}px; " if "width" in described else ""
                style = f"{width}max-width: 100%"
                alt = html.escape(described["alt"])
                output.data = {"text/html": f'<img alt="{alt}" src="{source}" style="{style}">'}
        return cell, resources


if "get_config" in globals():  # nbconvert reads this file
    get_config().HTMLExporter.preprocessors = [AlternativeTexts]  # noqa: F821
