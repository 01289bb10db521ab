import Catalog
import Console
import Core
import DriverKit
import Failover

/// Decisions as people read them.
enum FailoverText {
  private static func brief(_ milliseconds: Int64) -> String { Duration.milliseconds(milliseconds).brief }

  /// All entries of a failover, and each observer's from before it since that one was last calm.
  static func story(of id: String, in entries: [FailoverLogEntry]) -> [FailoverLogEntry] {
    let own = entries.indices.filter { entries[$0].id == id }
    guard let first = own.first else { return [] }
    var chosen = Set(own)
    for observer in Set(entries.map(\.facts.observer)) {
      for index in entries[..<first].indices.reversed() where entries[index].facts.observer == observer {
        let states: Set<FailoverState> = [.suspect, .confirmed, .consent, .claim]
        guard entries[index].id == nil, let state = entries[index].decisions.last?.next.state, states.contains(state)
        else { break }
        chosen.insert(index)
      }
    }
    return chosen.sorted().map { entries[$0] }
  }

  static func lines(_ entry: FailoverLogEntry, _ style: Style) -> [String] {
    var lines = [
      style.paint("\(entry.at)  \(entry.id ?? "-")  seen by \(entry.facts.observer)", .strong)
    ]
    var before = entry.before.state
    for decision in entry.decisions {
      let way =
        decision.next.state == before ? before.rawValue : "\(before.rawValue) -> \(decision.next.state.rawValue)"
      lines.append("  \(style.paint(decision.rule.rawValue, .title))  \(way): \(decision.rule.row.says)")
      before = decision.next.state
      lines += decision.reasons.map { "           \($0)" }
      for candidate in decision.candidates {
        let position = candidate.position.map { "\($0)" } ?? "unknown"
        let isChosen = candidate.member == decision.next.target
        let why =
          candidate.whyNot.isEmpty
          ? style.paint(isChosen ? "chosen" : "can serve", .good)
          : style.paint("can't: " + candidate.whyNot.joined(separator: ", "), .warning)
        lines.append("           candidate \(candidate.member) at \(position), priority \(candidate.priority): \(why)")
      }
      lines += decision.actions.map { "           does: \(said($0))" }
    }
    return lines + facts(entry, style) + entry.policy.healing(for: entry.facts).flatMap { Self.lines($0, style) } + [""]
  }

  static func said(_ action: FailoverAction) -> String {
    switch action {
    case .claim: "take the lease"
    case .release: "give the lease back"
    case .fence(let name, let epoch): "\(name) detaches, under epoch \(epoch)"
    case .stop(let name, let epoch): "\(name) sends what it has and ends, under epoch \(epoch)"
    case .record(let record): "record \(record.primary) as primary of epoch \(record.epoch)"
    case .promote(let name, let epoch): "\(name) becomes the primary, under epoch \(epoch)"
    case .follow(let name, let primary, let epoch): "\(name) follows \(primary), under epoch \(epoch)"
    case .shift(let name, let epoch): "traffic goes to \(name), under epoch \(epoch)"
    }
  }

  private static func facts(_ entry: FailoverLogEntry, _ style: Style) -> [String] {
    let facts = entry.facts
    var lines: [String] = []
    if let store = facts.store {
      let primary = store.record.map { "\($0.primary) of epoch \($0.epoch)" } ?? "nobody"
      let age = store.recordAgeMilliseconds.map { ", known for \(brief($0))" } ?? ""
      let conductor = store.conductor.map { ", \($0.holder) conducts" } ?? ", nobody conducts"
      lines.append("primary \(primary)\(age); asked \(brief(store.ageMilliseconds)) ago\(conductor)")
      if let order = store.order {
        lines.append("order \(order.kind.rawValue) \(order.target?.text ?? "") by \(order.by)")
      }
    } else {
      lines.append("the lease store has never answered")
    }
    if facts.lateMilliseconds > 0 { lines.append("it was \(brief(facts.lateMilliseconds)) late itself") }
    for member in facts.members {
      lines.append("\(member.name)  \(sight(member))\(said(member.report, member.reportAgeMilliseconds))")
    }
    for witness in facts.witnesses {
      lines.append("\(witness.name)  witness\(said(witness.report, witness.reportAgeMilliseconds))")
    }
    for fact in facts.signals ?? [] { lines.append(said(fact, entry.policy.check(fact.check))) }
    for (key, value) in (facts.context ?? [:]).sorted(by: { $0.key < $1.key }) {
      lines.append("context \(key) = \(value.harmless)")
    }
    return lines.map { "  " + style.paint("fact     ", .faint) + $0.harmless }
  }

  private static func sight(_ member: MemberFacts) -> String {
    guard let sight = member.sight else { return "not looked at" }
    var text = "\(sight.rawValue) for \(brief(member.forMilliseconds))"
    if let phi = member.suspicionThousandths, phi >= 1000 { text += ", suspicion \(phi / 1000)" }
    if let time = member.suspectedMilliseconds { text += " for \(brief(time))" }
    return text
  }

  private static func said(_ report: AgentReport?, _ age: Int64?) -> String {
    guard let report, let age else { return "; its agent never answered" }
    var parts: [String] = ["its agent said \(brief(age)) ago: promised epoch \(report.promised)"]
    if let engine = report.engine {
      var text = engine.role.rawValue
      if let position = engine.position { text += " at \(position)" }
      if let following = engine.following { text += ", follows \(following)" }
      if let heard = engine.heardMilliseconds { text += ", heard \(brief(heard)) ago" }
      if engine.role == .primary { text += ", followed by \(engine.attached.map(\.text).joined(separator: " "))" }
      if engine.isHeld { text += ", held" }
      parts.append(text)
    }
    if report.isDetached { parts.append("detached") }
    if let of = report.of { parts.append("\(of) is \(report.verdict.rawValue)") }
    return "; " + parts.joined(separator: "; ")
  }

  private static func said(_ fact: SignalFact, _ check: FailoverCheck?) -> String {
    var text = "check \(fact.check) of \(fact.of) by \(fact.by): \(fact.valueText)"
    func number(_ value: Int64) -> String {
      SignalFact(check: fact.check, of: fact.of, by: fact.by, value: value, beyondMilliseconds: nil, ageMilliseconds: 0)
        .valueText
    }
    if let most = check?.most { text += ", at most \(number(most))" }
    if let least = check?.least { text += ", at least \(number(least))" }
    text += fact.beyondMilliseconds.map { ", beyond it for \(brief($0))" } ?? ", well"
    if let check { text += ", weight \(check.weight) (\(check.failure.rawValue))" }
    return text + ", \(brief(fact.ageMilliseconds)) old"
  }

  static func lines(_ advice: HealingAdvice, _ style: Style) -> [String] {
    var lines = [
      "  \(style.paint(advice.rule.rawValue, .title))  \(advice.failure.rawValue) at \(advice.member) (\(advice.evidence.joined(separator: "; "))): \(advice.rule.says)"
    ]
    for step in advice.steps {
      lines.append("           \(step.step.rawValue): \(step.consent == .auto ? "by itself" : step.command ?? "")")
    }
    return lines
  }

  static func table(_ rows: [HealCommand.Row]) -> [String] {
    func column(_ text: String, _ width: Int) -> String {
      text + String(repeating: " ", count: max(1, width - text.count))
    }
    func line(_ cells: [String]) -> String {
      zip(cells, [7, 12, 10, 10, 10, 0]).map { column($0, $1) }.joined()
    }
    return [line(["rule", "failure", "restart", "failover", "restore", "why"])]
      + rows.map { row in
        line([
          row.rule.rawValue, row.failure.rawValue, row.response.restart.rawValue, row.response.failover.rawValue,
          row.response.restore.rawValue, row.says,
        ])
      }
  }
}
