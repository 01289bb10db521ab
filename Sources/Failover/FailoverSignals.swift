import Catalog
import Core

/// What one try of a check came to.
package enum SignalSample: Sendable, Equatable {
  /// In thousandths.
  case value(Int64)
  /// It was answered by what is a failure in itself: a refused connection, another status.
  case failed
  /// It wasn't answered. Says nothing.
  case unknown
}

/// What a check found last, as it is recorded.
package struct SignalFact: Sendable, Equatable, Codable {
  package var check: CheckName
  /// The member it is about.
  package var of: MemberName
  /// Who looked.
  package var by: MemberName
  /// In thousandths; `nil` if the check failed instead.
  package var value: Int64?
  /// How long it has been beyond its threshold; `nil`: it is not.
  package var beyondMilliseconds: Int64?
  /// How old the last answer is.
  package var ageMilliseconds: Int64

  package init(
    check: CheckName, of: MemberName, by: MemberName, value: Int64?, beyondMilliseconds: Int64?, ageMilliseconds: Int64
  ) {
    (self.check, self.of, self.by, self.value) = (check, of, by, value)
    (self.beyondMilliseconds, self.ageMilliseconds) = (beyondMilliseconds, ageMilliseconds)
  }
}

/// What one observer's checks found: the last answer of each, and since when it is beyond its threshold.
package struct SignalMeter: Sendable, Equatable {
  private struct Entry: Sendable, Equatable {
    var of: MemberName
    var value: Int64?
    var at: Int64
    var beyondSince: Int64?
  }

  private var entries: [CheckName: Entry] = [:]

  package init() {}

  /// One that wasn't answered changes nothing: the last answer grows old.
  package mutating func took(_ check: FailoverCheck, of member: MemberName, _ sample: SignalSample, at now: Int64) {
    var value: Int64?
    switch sample {
    case .unknown: return
    case .failed: break
    case .value(let found): value = found
    }
    let isBeyond = value.map { $0 > check.most ?? .max || $0 < check.least ?? .min } ?? true
    var since: Int64?
    if isBeyond {
      since = now
      // A gap in which nothing was known was no time beyond the threshold.
      if let known = entries[check.name], known.of == member, now - known.at <= check.freshness.wholeMilliseconds {
        since = known.beyondSince ?? now
      }
    }
    entries[check.name] = Entry(of: member, value: value, at: now, beyondSince: since)
  }

  package func facts(_ checks: [FailoverCheck], by observer: MemberName, at now: Int64) -> [SignalFact] {
    checks.compactMap { check in
      entries[check.name].map { entry in
        SignalFact(
          check: check.name, of: entry.of, by: observer, value: entry.value,
          beyondMilliseconds: entry.beyondSince.map { max(0, entry.at - $0) }, ageMilliseconds: max(0, now - entry.at))
      }
    }
  }
}

/// What the checks say about one member, together.
package struct Ailment: Sendable, Equatable, Codable {
  /// Of checks that are beyond their thresholds, for as long as each asks for.
  package var weight = 0
  /// With those that haven't been for so long.
  package var rising = 0
  package var checks: [CheckName] = []
  /// What the heaviest of them points at.
  package var failure: FailureClass?

  package init() {}

  /// As good as an engine that is down.
  package static let enough = 100
}

extension FailoverPolicy {
  package func check(_ name: CheckName) -> FailoverCheck? { checks.first { $0.name == name } }

  /// Pure. What is older than its check allows says nothing, and corruption is never a reason to move.
  package func ailment(of member: MemberName, _ signals: [SignalFact]) -> Ailment {
    var result = Ailment()
    var heaviest = 0
    for check in checks where check.weight > 0 && check.failure != .corruption {
      let found = signals.filter { $0.check == check.name && $0.of == member }
      let beyond = found.compactMap { fact in
        fact.ageMilliseconds <= check.freshness.wholeMilliseconds ? fact.beyondMilliseconds : nil
      }
      guard let longest = beyond.max() else { continue }
      result.rising += check.weight
      guard longest >= check.dwell.wholeMilliseconds else { continue }
      result.weight += check.weight
      result.checks.append(check.name)
      if check.weight > heaviest { (heaviest, result.failure) = (check.weight, check.failure) }
    }
    return result
  }

  /// What an observer makes of its looks at the engine, and of what its checks say.
  package func verdict(on member: MemberFacts, late: Int64, _ signals: [SignalFact]) -> Verdict {
    let engine = verdict(on: member, late: late)
    guard engine == .up || engine == .suspect, !signals.isEmpty else { return engine }
    let ailment = ailment(of: member.name, signals)
    if ailment.weight >= Ailment.enough { return .down }
    return ailment.rising >= Ailment.enough ? .suspect : engine
  }

  /// How far the least complete of the standbys that acknowledgements wait for is behind: bytes, and milliseconds.
  package func lag(_ members: [MemberFacts], behind primary: MemberName) -> (bytes: Int64?, milliseconds: Int64?) {
    let fresh = members.filter { ($0.reportAgeMilliseconds ?? .max) <= signals.freshness.wholeMilliseconds }
    let engine = fresh.first { $0.name == primary }?.report?.engine
    let standbys = fresh.filter { $0.name != primary }.compactMap { $0.report?.engine }.filter { $0.role == .standby }
    let needed = max(1, acknowledgements)
    var bytes: Int64?
    if let most = engine?.position {
      let behind = standbys.compactMap { standby in
        standby.position.flatMap { $0.lineage == most.lineage ? max(0, most.offset &- $0.offset) : nil }
      }.sorted()
      bytes = behind.count >= needed ? behind[needed - 1] : nil
    }
    let heard = standbys.filter { $0.following == primary }.compactMap(\.heardMilliseconds).sorted()
    return (bytes, engine?.lagMilliseconds ?? (heard.count >= needed ? heard[needed - 1] : nil))
  }
}
