//! P-Charging-Vector, P-Visited-Network-ID, P-Access-Network-Info (RFC 7315).

/// P-Charging-Vector (RFC 7315 §5.6).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChargingVector {
    pub icid_value: String,
    pub orig_ioi: Option<String>,
    pub term_ioi: Option<String>,
    /// All others, as written.
    pub others: Vec<(String, Option<String>)>,
}

impl ChargingVector {
    pub fn parse(text: &str) -> Option<ChargingVector> { let _ = text; todo!() }
}
impl std::fmt::Display for ChargingVector { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }

/// The network name of a P-Visited-Network-ID value: quotes taken off, parameters dropped.
pub fn visited_network(value: &str) -> Option<String> { let _ = value; todo!() }
