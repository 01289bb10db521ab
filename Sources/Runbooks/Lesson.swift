import Core

/// What a drill has taught, and what is to be changed for it.
package struct Lesson: Sendable, Equatable, Codable {
  package enum Change: String, Sendable, Codable {
    /// What a runbook says.
    case runbook
    /// What was asked for.
    case threshold
    /// What is backed up, kept or practised, and how.
    case policy
  }

  /// The same for the same drill and subject.
  package var id: String
  /// The drill's record.
  package var drill: String
  package var at: Timestamp
  package var services: [String]
  package var learned: String
  package var kind: Change
  package var change: String
  package var code: String?
  package var before: Double?
  package var after: Double?

  /// By so much longer that chance does not explain it: a quarter, and a second.
  static func isMoved(_ before: Double, _ after: Double, share: Double = 0.25, seconds: Double = 1) -> Bool {
    abs(after - before) > before * share && abs(after - before) > seconds
  }

  /// Of all drills, oldest first.
  package static func all(of facts: RunbookFacts) -> [Lesson] {
    var lessons: [Lesson] = []
    var newest: [String: (drill: String, seconds: Double)] = [:]
    for drill in facts.drills {
      lessons += findings(drill, facts) + controls(drill, facts)
      guard drill.fault == nil, drill.verdict == "passed" else { continue }
      for result in drill.results {
        lessons += figures(drill, result, before: newest[result.service], facts)
        if let seconds = result.rtoSeconds { newest[result.service] = (drill.id, seconds) }
      }
    }
    return lessons
  }

  private static func findings(_ drill: DrillFact, _ facts: RunbookFacts) -> [Lesson] {
    guard drill.fault == nil, drill.verdict == "failed" else { return [] }
    return drill.findings.map { finding in
      let services =
        finding.stores.isEmpty ? drill.services : Set(finding.stores.compactMap { facts.store($0)?.service }).sorted()
      return Lesson(
        id: "\(drill.id)/\(finding.code)", drill: drill.id, at: drill.at, services: services,
        learned: "while it went through '\(finding.stage)': \(finding.code), \(finding.summary)", kind: .runbook,
        change: "mend it, or write into the notes what to do when \(finding.code) is seen; then practise again",
        code: finding.code)
    }
  }

  private static func controls(_ drill: DrillFact, _ facts: RunbookFacts) -> [Lesson] {
    guard let fault = drill.fault, let outcome = drill.outcome, outcome == "missed" || outcome == "other-reason" else {
      return []
    }
    let services = drill.faultStore.flatMap(facts.store).map { [$0.service] } ?? drill.services
    return [
      Lesson(
        id: "\(drill.id)/\(fault)", drill: drill.id, at: drill.at, services: services,
        learned: outcome == "missed"
          ? "a planted \(fault) was not noticed" : "a planted \(fault) was noticed for another reason",
        kind: .policy, change: "add a validator or an invariant that would see it; until then a pass is no proof of it")
    ]
  }

  private static func figures(
    _ drill: DrillFact, _ result: DrillFact.Result, before: (drill: String, seconds: Double)?, _ facts: RunbookFacts
  ) -> [Lesson] {
    guard let seconds = result.rtoSeconds else { return [] }
    var lessons: [Lesson] = []
    let now = Duration.seconds(seconds).brief
    if let before, isMoved(before.seconds, seconds) {
      let earlier = Duration.seconds(before.seconds).brief
      lessons.append(
        Lesson(
          id: "\(drill.id)/\(result.service)/time", drill: drill.id, at: drill.at, services: [result.service],
          learned: "\(result.service) was back after \(now), and after \(earlier) in \(before.drill)", kind: .runbook,
          change: seconds > before.seconds
            ? "expect it to take so long, and look for why it does" : "expect it to be back sooner",
          before: before.seconds, after: seconds))
    }
    if let asked = facts.figures[result.service]?.rtoAsked, seconds > asked {
      lessons.append(
        Lesson(
          id: "\(drill.id)/\(result.service)/rto", drill: drill.id, at: drill.at, services: [result.service],
          learned: "\(result.service) was back after \(now), and \(Duration.seconds(asked).brief) were asked",
          kind: .threshold,
          change:
            "ask for \(Duration.seconds((seconds * 1.2).rounded(.up)).brief) or more, or make its restore faster: salvor objectives says how",
          before: asked, after: seconds))
    }
    if let lost = result.rpoSeconds, let asked = facts.figures[result.service]?.rpoAsked, lost > asked {
      lessons.append(
        Lesson(
          id: "\(drill.id)/\(result.service)/rpo", drill: drill.id, at: drill.at, services: [result.service],
          learned:
            "\(result.service) lost \(Duration.seconds(lost).brief), and \(Duration.seconds(asked).brief) were asked",
          kind: .policy, change: "take points more often, or follow its stores' logs", before: asked, after: lost))
    }
    return lessons
  }
}
