"""Write products in the formats of other programs; see ``docs/export.md``.

`formats` lists the formats. Each has a module with one function ``write``, which is imported when
the format is used. `source` opens the product to export.
"""
