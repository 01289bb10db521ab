import Console
import Core

/// One figure of a benchmark, and what it should be.
package struct BenchmarkRow: Sendable, Equatable {
  /// What a figure is held against.
  package enum Bar: Sendable, Equatable {
    case atMost(Double)
    case atLeast(Double)

    package var limit: Double {
      switch self {
      case .atMost(let limit), .atLeast(let limit): limit
      }
    }

    package func holds(_ value: Double) -> Bool {
      switch self {
      case .atMost(let limit): value <= limit
      case .atLeast(let limit): value >= limit
      }
    }

    package var text: String {
      switch self {
      case .atMost(let limit): "at most \(BenchmarkRow.text(limit))"
      case .atLeast(let limit): "at least \(BenchmarkRow.text(limit))"
      }
    }
  }

  package var name: String
  package var value: Double
  /// What `value` counts: `s`, `ms`, `×`, `1/s`.
  package var unit: String
  package var bar: Bar?

  package init(_ name: String, _ value: Double, _ unit: String, bar: Bar? = nil) {
    (self.name, self.value, self.unit, self.bar) = (name, value, unit, bar)
  }

  /// `nil` for a figure that is only shown.
  package var holds: Bool? { bar.map { $0.holds(value) } }

  /// Three digits after the point at most.
  static func text(_ value: Double) -> String {
    guard value.isFinite, abs(value) < 1e12 else { return "\(value)" }
    return "\((value * 1000).rounded() / 1000)"
  }
}

/// How much a benchmark does.
package enum BenchmarkScale: Sendable {
  /// What the figures in the documentation were taken at.
  case full
  /// Just enough to go down every path; the figures mean nothing.
  case tiny
}

package struct BenchmarkContext: Sendable {
  package var scale: BenchmarkScale
  /// An empty directory of the run's own.
  package var directory: String
  package var time: any Timekeeper
  /// Settings of a benchmark's own, which its summary names.
  package var options: [String: String]

  package init(
    scale: BenchmarkScale, directory: String, time: any Timekeeper = SystemTime(), options: [String: String] = [:]
  ) {
    (self.scale, self.directory, self.time, self.options) = (scale, directory, time, options)
  }

  func number(_ name: String) -> Int? { options[name].flatMap { Int($0) } }
}

package protocol Benchmark: Sendable {
  static var name: String { get }
  /// One sentence for `--list`.
  static var summary: String { get }
  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow]
}

package enum BenchmarkRegistry {
  package static let all: [any Benchmark.Type] = [
    CatalogBench.self, VaultBench.self, IndexBench.self, PointsBench.self, PostgreSQLBench.self,
    DrillsBench.self, MakespanBench.self, FailoverBench.self,
  ]
}

/// What a run prints, and what it writes for machines.
package enum BenchmarkReport {
  package static func lines(_ rows: [BenchmarkRow], _ style: Style) -> [String] {
    var table = Table([.init("figure"), .init("value", .right), .init("unit"), .init("bar"), .init("holds")])
    for row in rows {
      table.add([
        row.name, BenchmarkRow.text(row.value), row.unit, row.bar?.text ?? "",
        row.holds.map { $0 ? "yes" : "NO" } ?? "",
      ])
    }
    return table.lines(style)
  }

  package static func json(_ rows: [BenchmarkRow]) throws -> [UInt8] {
    struct Row: Encodable {
      var name: String
      var value: Double
      var unit: String
      var bar: Double?
      var holds: Bool?
    }
    struct Report: Encodable { var rows: [Row] }
    return Array(
      try CanonicalJSON.encode(
        Report(
          rows: rows.map { Row(name: $0.name, value: $0.value, unit: $0.unit, bar: $0.bar?.limit, holds: $0.holds) }),
        pretty: true))
  }
}

/// - Parameter values: Not empty.
func median(_ values: [Double]) -> Double { percentile(values, 0.5) }

/// The value that `share` of all are at or below.
func percentile(_ values: [Double], _ share: Double) -> Double {
  let sorted = values.sorted()
  guard !sorted.isEmpty else { return .nan }
  return sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
}
