import Catalog
import Core

/// What a drill came to, from what it found. Pure.
package enum DrillJudge {
  /// Codes that say this very thing was wrong; anything else is another reason.
  package static func codes(of fault: Drill.FaultKind) -> Set<String> {
    switch fault {
    // Content that is not what was written; never content that is not there.
    case .flippedByte: ["VAULT-121", "VAULT-130", "STORE-104"]
    case .lostObject: ["VAULT-123", "STORE-101"]
    case .missingLog: ["LOG-101", "LOG-102", "LOG-103", "DRIVER-402"]
    case .revokedKey: ["VAULT-101"]
    case .wrongClock: ["DRILL-302"]
    case .staleSchema: ["RESTORE-201", "RESTORE-301"]
    case .slowStore: ["DRILL-303"]
    case .fullDisk: ["IO-101", "DRIVER-602"]
    case .deniedPermission: ["STORE-107", "IO-103"]
    }
  }

  /// Whether `findings` are what the fault had to lead to.
  ///
  /// - Parameter store: Whose copy was broken; a finding that names other stores only is about something else.
  package static func outcome(
    of fault: Drill.FaultKind, store: StoreName?, findings: [DrillFinding]
  ) -> DrillRecord.Control.Outcome {
    if findings.isEmpty { return .missed }
    let codes = codes(of: fault)
    let isCaught = findings.contains { finding in
      guard codes.contains(finding.code) else { return false }
      guard let store, !finding.stores.isEmpty else { return true }
      return finding.stores.contains(store)
    }
    return isCaught ? .caught : .otherReason
  }

  /// The verdict on what is known.
  ///
  /// - Parameters:
  ///   - isComplete: Every step that was planned was carried out.
  ///   - control: Of a drill with a planted fault, the outcome; then the pass is Salvor's for noticing.
  package static func verdict(
    isComplete: Bool, findings: [DrillFinding], control: DrillRecord.Control.Outcome?
  ) -> DrillRecord.Verdict {
    switch control {
    case .caught: return .passed
    case .missed, .otherReason: return .failed
    case .notApplicable: return .couldNotRun
    case nil: break
    }
    if findings.contains(where: { $0.stage == .isolate }) { return .couldNotRun }
    if !findings.isEmpty { return .failed }
    return isComplete ? .passed : .couldNotRun
  }
}

/// How many planted faults were noticed.
package struct DrillScore: Sendable, Equatable, Codable {
  package struct Line: Sendable, Equatable, Codable {
    /// `nil`: of faults that are about no one service.
    package var service: ServiceName?
    package var fault: Drill.FaultKind
    package var planted: Int
    package var caught: Int
    /// Red for something else.
    package var otherReason: Int
    package var missed: Int
    /// There was nothing to break: counted nowhere else.
    package var notApplicable: Int
    package var last: Timestamp
  }

  /// Sorted by service, then fault.
  package var lines: [Line]

  package var planted: Int { lines.reduce(0) { $0 + $1.planted } }
  package var caught: Int { lines.reduce(0) { $0 + $1.caught } }
  /// `nil`: nothing was planted yet, which is no score at all.
  package var share: Double? { planted == 0 ? nil : Double(caught) / Double(planted) }

  private struct Key: Hashable {
    var service: ServiceName?
    var fault: Drill.FaultKind
  }

  package init(_ records: some Sequence<DrillRecord>) {
    var lines: [Key: Line] = [:]
    for record in records {
      guard let control = record.control else { continue }
      let key = Key(service: control.service, fault: control.fault)
      var line =
        lines[key]
        ?? Line(
          service: control.service, fault: control.fault, planted: 0, caught: 0, otherReason: 0, missed: 0,
          notApplicable: 0, last: record.finishedAt)
      line.last = max(line.last, record.finishedAt)
      switch control.outcome {
      case .notApplicable: line.notApplicable += 1
      case .caught: (line.planted, line.caught) = (line.planted + 1, line.caught + 1)
      case .missed: (line.planted, line.missed) = (line.planted + 1, line.missed + 1)
      case .otherReason: (line.planted, line.otherReason) = (line.planted + 1, line.otherReason + 1)
      }
      lines[key] = line
    }
    self.lines = lines.values.sorted {
      ($0.service?.text ?? "", $0.fault.rawValue) < ($1.service?.text ?? "", $1.fault.rawValue)
    }
  }
}

/// What drills have shown of a service, and for how long that counts.
package struct DrillProof: Sendable, Equatable, Codable {
  package enum State: String, Sendable, Codable {
    case proven
    /// Never shown, or too long ago.
    case unproven
    /// The newest drill that came to a verdict says it does not come back.
    case failed
  }

  package var service: ServiceName
  package var state: State
  package var level: Drill.Level?
  /// When it was shown last.
  package var at: Timestamp?
  /// Until when that counts, or counted.
  package var until: Timestamp?
  package var measuredSeconds: Double?

  /// Of drills that came to a verdict and had nothing planted; tabletops and restores of stores alone prove no service.
  package init(of service: ServiceName, _ records: some Sequence<DrillRecord>, now: Timestamp) {
    self.service = service
    let telling = records.filter { record in
      record.control == nil && record.level >= .service && [.passed, .failed].contains(record.verdict)
        && record.services.contains(service) && record.finishedAt <= now
    }
    guard let newest = telling.max(by: { ($0.finishedAt, $0.id) < ($1.finishedAt, $1.id) }) else {
      state = .unproven
      return
    }
    (level, at) = (newest.level, newest.finishedAt)
    guard newest.verdict == .passed else {
      state = .failed
      return
    }
    until = newest.provesUntil
    measuredSeconds = newest.results.first { $0.service == service }?.rtoSeconds
    state = now <= newest.provesUntil ? .proven : .unproven
  }
}
