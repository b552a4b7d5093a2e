//! Tables whose keys clients choose.

use std::collections::HashMap;

use bytestring::ByteString;

/// A table by a name that a client chose. Its hash is keyed anew in each process, so that nobody can choose
/// names that all fall into one place. Its order means nothing: whoever lists it sorts.
pub(crate) type ByName<V> = HashMap<ByteString, V>;
