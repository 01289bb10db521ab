import Catalog
import Core
import IO
import Planning
import Recovery
import Vault

/// Finds the point a restore is to bring back: the newest consistent one, at or before the time asked for, whose
/// copies verify.
struct PointSelection: Sendable {
  let system: ManagedSystem

  /// A point, and what was found out about it.
  struct Chosen: Sendable {
    var point: RecoveryPoint
    var facts: PointFacts
    /// Newer points that were passed over, and why.
    var rejected: [RejectedPoint]
  }

  /// - Parameters:
  ///   - named: A point's id, or its beginning; then that one or none.
  ///   - verifies: Read every byte of the candidates' copies before trusting them.
  ///   - progress: Told which copy of which point is being read.
  func choose(
    stores: [StoreName], named: String?, at: Timestamp?, verifies: Bool,
    progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws(AnyFailure) -> Chosen {
    do {
      var parts: [Chosen] = []
      for group in groups(of: stores) {
        parts.append(
          try await chooseOne(group, named: named, at: at, verifies: verifies, progress: progress))
      }
      guard let first = parts.first else { throw RecoveryError.noPoint(why: ["nothing is to be restored"]) }
      return parts.dropFirst().reduce(first) { merge($0, $1) }
    } catch {
      throw AnyFailure(error)
    }
  }

  private struct Part {
    var name: GroupName
    var stores: [StoreName]
    var repository: RepositoryName
  }

  /// The stores, by the group they were marked with.
  private func groups(of stores: [StoreName]) -> [Part] {
    var parts: [GroupName: Part] = [:]
    for name in stores {
      guard let store = system.catalog.store(name) else { continue }
      let group = system.catalog.group(of: name)?.name ?? GroupName(unchecked: name.text)
      parts[group, default: Part(name: group, stores: [], repository: store.repository)].stores.append(name)
    }
    return parts.values.sorted { $0.name < $1.name }
  }

  private func chooseOne(
    _ part: Part, named: String?, at: Timestamp?, verifies: Bool,
    progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws -> Chosen {
    let vault = try await system.vault(of: part.repository)
    let points = PointCatalog(vault: vault, pool: system.host.pool)
    let listed = try await points.list()
    let unreadable = listed.unreadable.map {
      RejectedPoint(id: "snapshot \($0.snapshot.prefix(8))", why: "can't be read: \($0.1.summary)")
    }
    if let named {
      let point = try await points.find(named)
      guard point.group == part.name else {
        throw RecoveryError.noPoint(why: ["\(point.id) is of group \(point.group), not of \(part.name)"])
      }
      let facts = try await facts(of: point, part.stores, in: points, verifies: verifies, progress: progress)
      if let why = damage(in: facts, part.stores) { throw RecoveryError.pointDamaged(point.id.text, why: why) }
      return Chosen(point: point, facts: facts, rejected: [])
    }
    // Reading a point's copies takes long, so each is read only once it would be taken; what is found may change the choice.
    let candidates = listed.points.filter { $0.group == part.name }
    var known: [String: PointFacts] = [:]
    for point in candidates {
      known[point.id.text] = try await facts(of: point, part.stores, in: points, verifies: false, progress: progress)
    }
    var verified: Set<String> = []
    while true {
      let choice = choosePoint(known.values.sorted { $0.id < $1.id }, at: at, stores: part.stores)
      let rejected =
        unreadable + choice.rejected.map { RejectedPoint(id: $0.point, why: $0.reasons.joined(separator: ", ")) }
      guard let facts = choice.point, let point = candidates.first(where: { $0.id.text == facts.id }) else {
        throw RecoveryError.noPoint(why: rejected.map { "\($0.id): \($0.why)" })
      }
      if !verifies || verified.contains(facts.id) { return Chosen(point: point, facts: facts, rejected: rejected) }
      known[facts.id] = try await self.facts(of: point, part.stores, in: points, verifies: true, progress: progress)
      verified.insert(facts.id)
    }
  }

  private func damage(in facts: PointFacts, _ stores: [StoreName]) -> String? {
    for store in stores {
      switch facts.stores[store]?.state {
      case .held, .outside: continue
      case .corrupt(let why): return "its copy of \(store) is damaged: \(why)"
      case .missing, nil: return "it has no copy of \(store)"
      }
    }
    return nil
  }

  private func facts(
    of point: RecoveryPoint, _ stores: [StoreName], in points: PointCatalog, verifies: Bool,
    progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws -> PointFacts {
    var facts: [StoreName: StoreFacts] = [:]
    for name in stores {
      guard let part = point.stores[name] else {
        facts[name] = StoreFacts(.missing)
        continue
      }
      var state: StoreFacts.State
      switch part.cut {
      case .held: state = .held
      case .outside(let why): state = .outside(why)
      }
      if verifies {
        progress("verify \(name) in \(point.id)")
        if let damage = try await points.damage(of: name, in: point) { state = .corrupt(damage) }
      }
      facts[name] = StoreFacts(state, sizeBytes: part.capture.sizeBytes, version: part.capture.version)
    }
    return PointFacts(
      id: point.id.text, time: point.time, mode: PointFacts.Mode(rawValue: point.mode.rawValue) ?? .fuzzy,
      isVerified: true, stores: facts)
  }

  /// Two groups come back to two moments; the result says so and promises nothing between them.
  private func merge(_ a: Chosen, _ b: Chosen) -> Chosen {
    var merged = a
    let remark =
      "\(a.point.group) is from \(a.point.time), \(b.point.group) from \(b.point.time): nothing is promised between them"
    merged.point.stores.merge(b.point.stores) { first, _ in first }
    merged.point.mode = .fuzzy
    merged.point.remarks.append(remark)
    merged.point.time = min(a.point.time, b.point.time)
    merged.facts.stores.merge(b.facts.stores) { first, _ in first }
    merged.facts.mode = .fuzzy
    merged.facts.id = "\(a.facts.id)+\(b.facts.id)"
    merged.facts.time = merged.point.time
    merged.rejected += b.rejected
    return merged
  }
}

/// A point that was not chosen.
package struct RejectedPoint: Sendable, Codable, Equatable {
  package var id: String
  package var why: String
}
