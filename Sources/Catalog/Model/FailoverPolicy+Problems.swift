import Core

extension FailoverPolicy {
  /// What is wrong with a policy, where, and how it is mended.
  package struct Problem: Sendable, Equatable {
    /// Names of fields from the outside in; numbers count from 0.
    package var path: [String]
    package var text: String
    package var remedy: String
    /// Allowed, and worth saying.
    package var isWarning = false
  }

  /// Why nothing can be promised under it; `nil` if it makes sense.
  package var problem: String? { problems.first { !$0.isWarning }.map { "\($0.text); \($0.remedy)" } }

  /// All that is wrong, and what is odd.
  package var problems: [Problem] {
    membersProblems + quorumProblems + durationProblems + checkProblems + otherProblems
  }

  private var membersProblems: [Problem] {
    var result: [Problem] = []
    if !(2...9).contains(members.count) {
      result.append(
        Problem(
          path: ["members"], text: "it has \(members.count) members, and two to nine can be handled",
          remedy: "name the engine that serves and at least one copy of it"))
    }
    var seen: Set<MemberName> = []
    var agents: Set<String> = []
    var addresses: Set<String> = []
    for (list, path) in [(members, "members"), (witnesses, "witnesses")] {
      for (index, member) in list.enumerated() {
        let at = [path, String(index)]
        if !seen.insert(member.name).inserted {
          result.append(
            Problem(
              path: at + ["name"], text: "two members have one name, '\(member.name)'",
              remedy: "members and witnesses need names of their own"))
        }
        if !member.agent.isEmpty, !agents.insert(member.agent).inserted {
          result.append(
            Problem(
              path: at + ["agent"], text: "two agents have one address, \(member.agent)",
              remedy: "give each its own host or port"))
        }
        if !member.address.isEmpty, !addresses.insert(member.address).inserted {
          result.append(
            Problem(
              path: at + ["address"], text: "two members have one address, \(member.address)",
              remedy: "give each its own host or port"))
        }
        if !(0...1_000_000).contains(member.priority) {
          result.append(
            Problem(path: at + ["priority"], text: "a priority is 0 to 1000000", remedy: "0 is never promoted"))
        }
      }
    }
    if members.count > 1, members.filter({ $0.priority > 0 }).count < 2 {
      result.append(
        Problem(
          path: ["members"], text: "fewer than two members may be promoted", remedy: "give one more a priority above 0")
      )
    }
    return result
  }

  private var quorumProblems: [Problem] {
    var result: [Problem] = []
    let observers = members.count + witnesses.count
    if standbys >= 1, !(1...standbys).contains(acknowledgements) {
      result.append(
        Problem(
          path: ["acknowledgements"],
          text: "\(acknowledgements) acknowledgements can't come from \(standbys.of("standby", "standbys"))",
          remedy: "choose 1 to \(standbys)"))
    }
    if engine == .mariadb, acknowledgements > 1 {
      result.append(
        Problem(
          path: ["acknowledgements"],
          text: "a MariaDB primary waits for one acknowledgement, never for \(acknowledgements)",
          remedy: "write 1, or leave it out"))
    }
    if !(1...max(1, observers)).contains(signals.observers) {
      result.append(
        Problem(
          path: ["signals", "observers"], text: "\(signals.observers) of \(observers) observers can't agree",
          remedy: "choose 1 to \(observers)"))
    }
    if isBounded, lossBound == nil {
      result.append(
        Problem(
          path: ["consent"], text: "consent is auto-bounded, and no lossBound is given",
          remedy: "add 'lossBound: {bytes: 16777216, duration: 10s}', or write auto-zero-loss"))
    }
    if !isBounded, lossBound != nil {
      result.append(
        Problem(
          path: ["lossBound"], text: "nothing may be lost under consent \(consent.rawValue), so the bound says nothing",
          remedy: "leave it out, or write 'consent: auto-bounded'", isWarning: true))
    }
    if let lossBound, lossBound.bytes <= 0 || lossBound.duration <= .zero {
      result.append(
        Problem(path: ["lossBound"], text: "a bound is more than nothing", remedy: "or write auto-zero-loss"))
    }
    if observers.isMultiple(of: 2), observers >= 2 {
      result.append(
        Problem(
          path: witnesses.isEmpty ? ["members"] : ["witnesses"],
          text: "\(observers) observers are an even number: a network cut in the middle leaves neither half the larger",
          remedy: "add a witness: an agent on a host of its own, beside no engine", isWarning: true))
    }
    return result
  }

  private var durationProblems: [Problem] {
    var result: [Problem] = []
    func need(_ path: [String], _ holds: Bool, _ text: String, _ remedy: String) {
      if !holds { result.append(Problem(path: path, text: text, remedy: remedy)) }
    }
    need(
      ["signals", "interval"], signals.interval >= .milliseconds(20), "an interval below 20 ms is no interval",
      "write 200ms")
    need(
      ["signals", "freshness"], signals.freshness >= signals.interval * 2,
      "a report would be too old before the next one comes", "make it at least twice the interval")
    need(
      ["signals", "dwell"], signals.dwell >= signals.interval, "a dwell below one interval is one look",
      "make it at least the interval")
    need(
      ["signals", "suspicionThousandths"], (1000...100_000).contains(signals.suspicionThousandths),
      "a suspicion is 1 to 100: 8 is one mistake in 10^8 answers", "write 8")
    need(
      ["budgets", "lease"], budgets.lease >= .seconds(1) && budgets.lease <= .seconds(3600),
      "a lease lasts 1 second to 1 hour", "write 5s")
    need(["budgets", "fence"], budgets.fence >= .milliseconds(100), "nobody detaches in no time", "write 10s")
    need(
      ["budgets", "trust"], budgets.trust >= signals.freshness, "trust would run out between two reports",
      "make it at least the freshness")
    for (index, window) in freezes.enumerated() where window.until <= window.from {
      result.append(
        Problem(
          path: ["freezes", String(index)], text: "a freeze that ends before it begins", remedy: "swap its ends"))
    }
    for (index, window) in weeklyFreezes.enumerated() where window.from == window.until {
      result.append(
        Problem(
          path: ["weeklyFreezes", String(index)], text: "a weekly freeze that lasts no time, or for ever",
          remedy: "name two moments of the week, or write 'consent: propose'"))
    }
    return result
  }

  private var checkProblems: [Problem] {
    var result: [Problem] = []
    if checks.count > 32 {
      result.append(
        Problem(path: ["checks"], text: "\(checks.count) checks are more than 32", remedy: "join some of them"))
    }
    var seen: Set<CheckName> = []
    for (index, check) in checks.enumerated() {
      func add(_ text: String, _ remedy: String) {
        result.append(Problem(path: ["checks", String(index)], text: text, remedy: remedy))
      }
      if !seen.insert(check.name).inserted { add("two checks are called '\(check.name)'", "rename one of them") }
      if check.most == nil, check.least == nil, !check.asks.failsByItself {
        add("nothing says how much is too much for check '\(check.name)'", "add 'most' or 'least'")
      }
      if !(0...100).contains(check.weight) { add("a weight is 0 to 100", "100 is as good as an engine that is down") }
      if check.failure == .corruption, check.weight > 0 {
        add(
          "corruption never moves service: a copy may have it too",
          "leave the weight out; what is found keeps service from being moved by itself")
      }
      if check.interval < .milliseconds(100) { add("an interval below 100 ms is no interval", "write 1s") }
      if check.freshness < check.interval * 2, !check.asks.isDerived {
        add("an answer would be too old before the next one comes", "make the freshness at least twice the interval")
      }
    }
    return result
  }

  private var otherProblems: [Problem] {
    var result: [Problem] = []
    if let response = healing.responses[.corruption], response.failover != .off || response.restart != .off {
      result.append(
        Problem(
          path: ["healing", "corruption"],
          text: "corruption is neither restarted away nor failed over: a copy may have it too",
          remedy: "only 'restore' can be chosen"))
    }
    for (failure, response) in healing.responses.sorted(by: { $0.key.rawValue < $1.key.rawValue })
    where response.restore == .auto {
      result.append(
        Problem(
          path: ["healing", failure.rawValue], text: "a restore is proposed as a command, never begun by an agent",
          remedy: "write 'restore: propose'"))
    }
    if let group {
      if group.followers.isEmpty || group.followers.count > 16 {
        result.append(
          Problem(
            path: ["group", "followers"], text: "a group has 1 to 16 followers",
            remedy: "name the policies that move with it"))
      }
      if Set(group.followers).count != group.followers.count || group.followers.contains(name) {
        result.append(
          Problem(
            path: ["group", "followers"], text: "a policy moves once with a group, and not with itself",
            remedy: "name each policy once"))
      }
    }
    for (index, gate) in context.gates.enumerated() where gate.allows.isEmpty || context.file == nil {
      result.append(
        Problem(
          path: ["context", "gates", String(index)], text: "nothing could ever pass gate '\(gate.key)'",
          remedy: "name the file that is read, and what the gate allows"))
    }
    return result
  }
}

extension Int {
  fileprivate func of(_ one: String, _ many: String) -> String { "\(self) \(self == 1 ? one : many)" }
}
