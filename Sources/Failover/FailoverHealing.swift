import Catalog
import Core

/// What a failure calls for, in the order of what it costs.
package enum HealingRule: String, Sendable, Codable, CaseIterable {
  case engineEnded = "H-010"
  case hostSilent = "H-020"
  case diskFull = "H-030"
  case corruptionFound = "H-040"
  case standbysBehind = "H-050"
  case overloaded = "H-060"

  package init(_ failure: FailureClass) {
    self =
      switch failure {
      case .process: .engineEnded
      case .host: .hostSilent
      case .disk: .diskFull
      case .corruption: .corruptionFound
      case .lag: .standbysBehind
      case .overload: .overloaded
      }
  }

  package var says: String {
    switch self {
    case .engineEnded: "the engine ended, or takes no writes, and its host answers: a restart may do, a copy is faster"
    case .hostSilent: "nothing there answers: nobody can restart it from here"
    case .diskFull: "its disk is full or takes no writes: a restart would find it as it is"
    case .corruptionFound: "its data contradicts itself: a copy may do so too, so only an earlier point helps"
    case .standbysBehind: "standbys are behind: moving there would lose what they lack, or wait for it"
    case .overloaded: "it answers too slowly: another member would have the same load"
    }
  }
}

package enum HealingStep: String, Sendable, Codable, CaseIterable { case restart, failover, restore }

/// One class of failures that the facts show, and what would be done about it.
package struct HealingAdvice: Sendable, Equatable, Codable {
  package var rule: HealingRule
  package var failure: FailureClass
  package var member: MemberName
  package var evidence: [String]
  /// In the order of what they cost.
  package var steps: [Step]

  package struct Step: Sendable, Equatable, Codable {
    package var step: HealingStep
    package var consent: FailoverHealing.Consent
    /// What a person types, where somebody has to.
    package var command: String?
  }
}

extension FailoverPolicy {
  /// What the facts call for. Pure; nothing is done by it.
  package func healing(for facts: FailoverFacts) -> [HealingAdvice] {
    guard let primary = facts.store?.record?.primary, let member = facts.member(primary) else { return [] }
    var found: [(FailureClass, [String])] = []
    let verdict = verdict(on: member, late: facts.lateMilliseconds)
    if verdict == .down || verdict == .suspect {
      let failure = Self.failure(of: member)
      found.append((failure, ["\(member.sight?.rawValue ?? "not seen") for \(member.forMilliseconds) ms"]))
    }
    for failure in FailureClass.allCases {
      let evidence = checks.filter { $0.failure == failure }.compactMap { check -> String? in
        let beyond = (facts.signals ?? []).first {
          $0.check == check.name && $0.of == primary
            && ($0.beyondMilliseconds ?? -1) >= (failure == .corruption ? 0 : check.dwell.wholeMilliseconds)
            && (failure == .corruption || $0.ageMilliseconds <= check.freshness.wholeMilliseconds)
        }
        return beyond.map { "\(check.name) is \($0.valueText)" }
      }
      guard !evidence.isEmpty else { continue }
      if let index = found.firstIndex(where: { $0.0 == failure }) {
        found[index].1 += evidence
      } else {
        found.append((failure, evidence))
      }
    }
    return found.map { failure, evidence in
      HealingAdvice(
        rule: HealingRule(failure), failure: failure, member: primary, evidence: evidence,
        steps: steps(failure, primary))
    }
  }

  private func steps(_ failure: FailureClass, _ member: MemberName) -> [HealingAdvice.Step] {
    let response = healing.response(to: failure)
    var steps: [HealingAdvice.Step] = []
    func add(_ step: HealingStep, _ consent: FailoverHealing.Consent, _ command: String) {
      if consent != .off {
        steps.append(.init(step: step, consent: consent, command: consent == .auto ? nil : command))
      }
    }
    add(.restart, response.restart, "start the engine of \(member) as it is usually started")
    // Whoever moves nothing by itself asks for this too.
    let moves = consent == .autoZeroLoss || consent == .autoBounded
    add(
      .failover, response.failover == .auto && !moves ? .propose : response.failover,
      "salvor failover approve \(member) --policy \(name)")
    add(.restore, response.restore, "salvor restore\(service.map { " \($0)" } ?? "") --dry-run")
    return steps
  }

  /// What an engine that isn't up points at.
  static func failure(of member: MemberFacts) -> FailureClass { member.sight == .silent ? .host : .process }
}

extension SignalFact {
  /// For people; units are the check's.
  package var valueText: String {
    guard let value else { return "failing" }
    let (whole, rest) = (value / 1000, abs(value % 1000))
    if rest == 0 { return "\(whole)" }
    var digits = String(rest + 1000).dropFirst()
    while digits.last == "0" { digits = digits.dropLast() }
    return "\(value < 0 && whole == 0 ? "-" : "")\(whole).\(digits)"
  }
}
