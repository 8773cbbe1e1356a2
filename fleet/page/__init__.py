"""The page that the coordinator serves at `/`: ES modules and style sheets in `static/`, run by browsers as they are. `vendor.toml` says
what of it others wrote."""
