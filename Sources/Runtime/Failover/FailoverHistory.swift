import Catalog
import Core
import Failover
import Governance
import IO

/// Who became primary, when and why, as the evidence log has it.
package struct FailoverHistory: Sendable {
  package struct Row: Sendable, Equatable, Codable {
    package var policy: String
    package var epoch: Int64
    package var at: String
    package var primary: String
    package var previous: String?
    package var position: String?
    /// Rules and reasons, first to last; empty if another machine's agent decided.
    package var why: [String] = []
    package var orderedBy: String?
    package var decidedBy: String?
    /// When it was seen to acknowledge.
    package var servedAt: String?
    /// The rule that chose, and the digest of the facts it chose from; as the lease store's record has it.
    package var decision: String?
    /// Numbers of the log's entries: what `salvor evidence prove` takes.
    package var entries: [Int64] = []
    /// Whether the agent's record has the decision as the log has it, and comes to it again; `nil` if there is none here.
    package var isReplayed: Bool?
  }

  package private(set) var rows: [Row] = []
  private var beginnings: [String: (why: [String], entries: [Int64], order: String?)] = [:]

  /// - Parameters:
  ///   - records: Lines of agents' records, by their digests.
  package init(_ entries: [(index: Int64, entry: LogEntry)], policy: String?, records: [String: FailoverLogEntry]) {
    for (index, entry) in entries where entry.subject.hasPrefix("failover/") {
      let name = String(entry.subject.dropFirst("failover/".count))
      guard policy == nil || policy == name else { continue }
      switch entry.action {
      case FailoverLogEntry.decided: decided(name, index, entry, records)
      case FailoverLogEntry.named: named(name, index, entry)
      default: break
      }
    }
    rows.sort { ($0.policy, $0.epoch) < ($1.policy, $1.epoch) }
  }

  private func place(_ policy: String, _ epoch: Int64) -> Int? {
    rows.firstIndex { $0.policy == policy && $0.epoch == epoch }
  }

  private mutating func decided(
    _ policy: String, _ index: Int64, _ entry: LogEntry, _ records: [String: FailoverLogEntry]
  ) {
    let details = entry.details
    let rules = (details["rules"]?.array ?? []).compactMap { $0.string.flatMap { FailoverRule(rawValue: $0) } }
    let reasons = (details["reasons"]?.array ?? []).compactMap(\.string)
    let observer = details["observer"]?.string ?? ""
    // What led to it comes before there is an epoch to know it by.
    var beginning = beginnings[observer] ?? ([], [], nil)
    let isCalm = details["epoch"] == nil && ["steady", "degraded", "paused"].contains(details["state"]?.string ?? "")
    if isCalm { beginning = ([], [], nil) }
    if !isCalm {
      for line in rules.map({ "\($0.rawValue) \($0.row.says)" }) + reasons.map({ "  \($0)" })
      where !beginning.why.suffix(4).contains(line) { beginning.why.append(line) }
      beginning.entries.append(index)
      if let by = details["order"]?["by"]?.string { beginning.order = by }
    }
    beginnings[observer] = beginning
    guard let epoch = details["epoch"]?.integer else { return }
    if rules.contains(.chosen) || rules.contains(.goesBack), let target = details["target"]?.string {
      let known = place(policy, epoch)
      var row = known.map { rows[$0] } ?? Row(policy: policy, epoch: epoch, at: entry.at, primary: target)
      let subject = details["subject"]?.string
      row.at = entry.at
      row.previous = subject == target ? nil : subject
      (row.position, row.orderedBy, row.decidedBy) = (details["position"]?.string, beginning.order, observer)
      row.why = beginning.why
      row.entries += beginning.entries
      let rule: FailoverRule = rules.contains(.goesBack) ? .goesBack : .chosen
      if let facts = details["facts"]?.string { row.decision = "\(rule.rawValue) \(facts)" }
      if let line = details["line"]?.string, let found = records[line] {
        row.isReplayed = found.replayed() == found.decisions
      } else if records.values.contains(where: { $0.facts.observer.text == observer && $0.policy.name.text == policy })
      {
        row.isReplayed = false
      }
      if let known { rows[known] = row } else { rows.append(row) }
    } else if let known = place(policy, epoch), rows[known].decidedBy == observer {
      rows[known].entries.append(index)
    }
    if rules.contains(.shifted), let known = place(policy, epoch) { rows[known].servedAt = entry.at }
    if rules.contains(.chosen) || rules.contains(.goesBack) { beginnings[observer] = ([], [], nil) }
  }

  private mutating func named(_ policy: String, _ index: Int64, _ entry: LogEntry) {
    guard let epoch = entry.details["epoch"]?.integer, let primary = entry.details["primary"]?.string else { return }
    if let known = place(policy, epoch) {
      rows[known].entries.append(index)
      return
    }
    var row = Row(policy: policy, epoch: epoch, at: entry.at, primary: primary)
    (row.previous, row.decision) = (entry.details["previous"]?.string, entry.details["decision"]?.string)
    row.entries = [index]
    rows.append(row)
  }

  /// Every line of every agent's record in a directory, by its digest; what can't be read is left out.
  package static func records(in directory: String) -> [String: FailoverLogEntry] {
    var found: [String: FailoverLogEntry] = [:]
    for name in (try? Files.names(in: directory).map(\.lossyText)) ?? [] where name.hasSuffix(".log") {
      guard let bytes = try? Files.read("\(directory)/\(name)", limitBytes: 1 << 30) else { continue }
      for line in bytes.split(separator: 10) {
        guard let entry = try? CanonicalJSON.decode(FailoverLogEntry.self, from: line) else { continue }
        found[Digest.of(Array(line) + [10]).hex] = entry
      }
    }
    return found
  }
}
