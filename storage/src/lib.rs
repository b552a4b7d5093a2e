//! The segmented log, the truth of a node, and its simulated twin
