//! IPsec on Gm (TS 33.203, RFC 3329): agreeing on algorithms, sets of four associations, ESP itself.

pub mod agree;
pub mod audit;
pub mod esp;
pub mod sa;
mod transform;
