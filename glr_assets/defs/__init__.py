"""Everything that knows Dagster: one thin file a group of assets, and what they share.

An asset reads its context, calls one function of the stage package of the same name, and returns a result
with metadata. What an asset does belongs to its stage package.
"""

import warnings

import dagster as dg

# Backfill policies have been marked beta for years and are the one way to run shards in ranges.
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)
# So have the references from an asset to its code.
_REFERENCES = "(Function `with_source_code_references`|Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`)"
warnings.filterwarnings("ignore", message=_REFERENCES, category=dg.BetaWarning)
