//! The AVP table (TS 29.229 §6.3). To be written.
