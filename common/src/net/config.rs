//! Layered TOML and environment. To be written.
