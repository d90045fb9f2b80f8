# `snakemake` in a clone finds this file first; the workflow itself is workflow/Snakefile
include: "workflow/Snakefile"


# A default target that is named in an included file is ignored: name it here. A workflow that has this
# one as a module has its own.
if workflow.modifier.parent_modifier is None:
    workflow.default_target = "all"
