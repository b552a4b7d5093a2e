//! GPS as pure functions: plausibility, corridor, fences, formats
