import Catalog
import Core
import DriverKit

/// What a metric was, where that is known.
package struct MetricContext: Sendable, Equatable, Codable {
  /// When the point was taken.
  package var recorded: [String: String] = [:]
  /// In the points before that, the oldest first.
  package var history: [String: [String]] = [:]
  /// Right before the restore; empty where nobody answered.
  package var before: [String: String] = [:]

  package init() {}
}

extension Metric {
  /// How a value breaks what was declared; empty if it doesn't. Pure.
  package func broken(_ text: String, recorded: String?, history: [String]) -> [String] {
    guard let value = Double(text), value.isFinite else { return ["it is '\(text)', which is no number"] }
    var result: [String] = []
    if let least, value < least.value { result.append("it is \(text), below \(least.text)") }
    if let most, value > most.value { result.append("it is \(text), above \(most.text)") }
    if let changePerMillion, let recorded, recorded != text, let then = Double(recorded),
      Self.isBeyond(value, then, changePerMillion)
    {
      result.append("it is \(text), and was \(recorded) at the point: more than \(Self.percent(changePerMillion)) off")
    }
    if let trend {
      let numbers = history.suffix(trend.points).compactMap { Double($0) }.sorted()
      // Of one or two points nobody can tell a trend.
      if numbers.count >= 3 {
        let middle = numbers.count / 2
        let median = numbers.count.isMultiple(of: 2) ? (numbers[middle - 1] + numbers[middle]) / 2 : numbers[middle]
        if Self.isBeyond(value, median, trend.changePerMillion) {
          result.append(
            "it is \(text), and \(median) is the median of \(numbers.count) points before: more than "
              + "\(Self.percent(trend.changePerMillion)) off")
        }
      }
    }
    return result
  }

  private static func isBeyond(_ value: Double, _ reference: Double, _ perMillion: Int) -> Bool {
    abs(value - reference) > abs(reference) * Double(perMillion) / 1_000_000
  }

  private static func percent(_ perMillion: Int) -> String {
    let text = "\(Double(perMillion) / 10_000)"
    return (text.hasSuffix(".0") ? String(text.dropLast(2)) : text) + " %"
  }
}

extension CheckRunner {
  /// The single value of a query.
  ///
  /// - Throws: ``CheckError/notAnswerable(_:)`` for any other answer.
  package func value(_ query: StoreQuery, timeout: Duration = .seconds(30)) async throws -> String {
    let result = try await rows(query, timeout: timeout)
    guard result.rows.count == 1, result.rows[0].count == 1, let value = result.rows[0][0] else {
      throw CheckError.notAnswerable("\(query.store): the query gives no single value")
    }
    return value
  }

  /// Asks a metric, and holds what it says against what was declared.
  package func check(_ metric: Metric, _ context: MetricContext) async -> CheckReport {
    let name = metric.name.text
    var value: String?
    var report = await report(.metric, metric.name, of: metric.source.store.text) {
      let text = try await self.value(metric.source)
      value = text
      let (recorded, history) = (context.recorded[name], context.history[name] ?? [])
      let broken = metric.broken(text, recorded: recorded, history: history)
      var words = "it is \(text)\(metric.unit.map { " \($0)" } ?? "")"
      if let recorded { words += "; \(recorded) when the point was taken" }
      if let before = context.before[name] { words += "; \(before) before the restore" }
      return Finished(
        outcome: broken.isEmpty
          ? .passed(words)
          : .failed(broken.map { Violation(.unexpected, count: 1, $0) }), examined: 1)
    }
    report.value = value
    return report
  }

  /// Whether a service works with the schema that is there.
  package func check(_ gate: SchemaGate, of service: ServiceName) async -> CheckReport {
    await report(.schema, gate.name, of: service.text) {
      let version = try await value(gate.source)
      guard gate.accepts.contains(version) else {
        return Finished(outcome: .failed([Violation(.unexpected, count: 1, gate.refusal(of: version, by: service))]))
      }
      return Finished(outcome: .passed("schema version \(version) of \(gate.source.store)"), examined: 1)
    }
  }
}

extension SchemaGate {
  package var name: CheckName { CheckName(unchecked: "schema-of-\(source.store)") }

  package func refusal(of version: String, by service: ServiceName) -> String {
    "\(service) works with schema version \(accepts.joined(separator: ", ")) of \(source.store), and it is \(version)"
  }
}
