import Core

/// Why a benchmark has no figures.
package enum BenchmarkError: Failure {
  /// What was measured did not do its work; its time means nothing.
  case wrong(String)
  /// A peer's program failed, with what it said.
  case peer(String, String)
  /// SQLite's own words.
  case database(String)

  package var report: Report {
    switch self {
    case .wrong(let what): Report("BENCH-001", what)
    case .peer(let command, let words): Report("BENCH-002", "\(command) failed: \(words)")
    case .database(let words): Report("BENCH-003", "the benchmark's database: \(words)")
    }
  }
}
