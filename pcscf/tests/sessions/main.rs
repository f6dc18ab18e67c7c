//! Dialogues with a P-CSCF alone about SUBSCRIBE and NOTIFY (TS 24.229 §5.2.3, §5.2.6), with bytes on
//! both sides.

mod lone;
mod requests;
mod watching;
