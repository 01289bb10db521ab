import Catalog
import Core
import DriverKit

extension CheckRunner {
  /// Checks rules in and across stores.
  ///
  /// The stores should be at rest: two queries to a system at work see it at two moments, and report what is only under
  /// way as broken.
  package func check(_ invariants: [Invariant]) async -> [CheckReport] {
    var reports: [CheckReport] = []
    for invariant in invariants { reports.append(await check(invariant)) }
    return reports
  }

  package func check(_ invariant: Invariant) async -> CheckReport {
    let subject = invariant.stores.map(\.text).joined(separator: ",")
    return await report(.invariant, invariant.name, of: subject, severity: invariant.severity) {
      switch invariant.rule {
      case .references(let from, let to, let exact): try await references(from, to, exact: exact)
      case .equal(let left, let right): try await equal(left, right)
      case .constant(let query, let expected):
        Finished(
          outcome: judge(single: try await rows(query, timeout: invariantTimeout), equals: expected), examined: 1)
      }
    }
  }

  private func references(_ from: StoreQuery, _ to: StoreQuery, exact: Bool) async throws -> Finished {
    let (source, target) = try await both(from, to)
    var violations: [Violation] = []
    let broken = RowComparison.missing(source.rows, in: target.rows, examples: exampleLimit)
    if broken.count > 0 {
      violations.append(
        Violation(
          .brokenLink, count: broken.count, "of \(from.store) lead nowhere in \(to.store)", examples: broken.examples))
    }
    if exact {
      let orphans = RowComparison.missing(target.rows, in: source.rows, examples: exampleLimit)
      if orphans.count > 0 {
        violations.append(
          Violation(
            .orphan, count: orphans.count, "of \(to.store) belong to nothing in \(from.store)",
            examples: orphans.examples))
      }
    }
    let count = Int64(source.rows.count)
    let passed =
      count == 0
      ? "no rows in \(from.store) that could refer to \(to.store)"
      : "\(count) rows of \(from.store), each found in \(to.store)"
    return Finished(
      outcome: violations.isEmpty ? .passed(passed) : .failed(violations), examined: count + Int64(target.rows.count))
  }

  private func equal(_ left: StoreQuery, _ right: StoreQuery) async throws -> Finished {
    let (a, b) = try await both(left, right)
    let (onlyLeft, onlyRight) = RowComparison.differences(a.rows, b.rows, examples: exampleLimit)
    var violations: [Violation] = []
    for (sample, here, there) in [(onlyLeft, left, right), (onlyRight, right, left)] where sample.count > 0 {
      violations.append(
        Violation(
          .missing, count: sample.count, "rows of \(here.store) are not in \(there.store)", examples: sample.examples))
    }
    return Finished(
      outcome: violations.isEmpty ? .passed("\(a.rows.count) rows, the same on both sides") : .failed(violations),
      examined: Int64(a.rows.count) + Int64(b.rows.count))
  }

  /// Both answers, asked for at the same time.
  private func both(_ left: StoreQuery, _ right: StoreQuery) async throws -> (QueryResult, QueryResult) {
    async let first = rows(left, timeout: invariantTimeout)
    async let second = rows(right, timeout: invariantTimeout)
    let result = try await (first, second)
    try RowComparison.requireLike(result.0, result.1)
    return result
  }
}
