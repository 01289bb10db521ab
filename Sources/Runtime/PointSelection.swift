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
    /// How stores that the point only marks come there; their parts of ``point`` are those of the copies they begin with.
    var forwards: [LogForward] = []

    /// With another store's part beside its own.
    func joined(_ other: Chosen) -> Chosen {
      var joined = self
      joined.point.stores.merge(other.point.stores) { first, _ in first }
      joined.facts.stores.merge(other.facts.stores) { first, _ in first }
      if joined.facts.id != other.facts.id { joined.facts.id += "+\(other.facts.id)" }
      joined.rejected += other.rejected
      joined.forwards += other.forwards
      return joined
    }
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

  /// The point that was named, or the newest whose copies verify; what was passed over for it is told.
  func chooseGood(
    _ stores: [StoreName], named: String?, progress: @escaping @Sendable (_ phase: String) -> Void = { _ in }
  ) async throws(AnyFailure) -> Chosen {
    let chosen = try await choose(stores: stores, named: named, at: nil, verifies: named == nil, progress: progress)
    for rejected in chosen.rejected { system.host.log("passed over \(rejected.id): \(rejected.why)") }
    return chosen
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
      let ways = try await ways(of: [point], part.stores)
      let way = way(to: point, ways)
      let facts = try await facts(of: way, part.stores, in: points, verifies: verifies, progress: progress)
      if let why = damage(in: facts, part.stores) { throw RecoveryError.pointDamaged(point.id.text, why: why) }
      return Chosen(point: way.point, facts: facts, rejected: [], forwards: way.forwards)
    }
    // Reading a point's copies takes long, so each is read only once it would be taken; what is found may change the choice.
    let candidates = listed.points.filter { $0.group == part.name }
    let ways = try await ways(of: candidates, part.stores)
    var known: [String: PointFacts] = [:]
    var found: [String: Way] = [:]
    for point in candidates {
      let way = way(to: point, ways)
      found[point.id.text] = way
      known[point.id.text] = try await facts(of: way, part.stores, in: points, verifies: false, progress: progress)
    }
    var verified: Set<String> = []
    while true {
      let choice = choosePoint(known.values.sorted { $0.id < $1.id }, at: at, stores: part.stores)
      let rejected =
        unreadable + choice.rejected.map { RejectedPoint(id: $0.point, why: $0.reasons.joined(separator: ", ")) }
      guard let facts = choice.point, let way = found[facts.id] else {
        throw RecoveryError.noPoint(why: rejected.map { "\($0.id): \($0.why)" })
      }
      if !verifies || verified.contains(facts.id) {
        return Chosen(point: way.point, facts: facts, rejected: rejected, forwards: way.forwards)
      }
      known[facts.id] = try await self.facts(of: way, part.stores, in: points, verifies: true, progress: progress)
      verified.insert(facts.id)
    }
  }

  /// A point, with the copies that its marked stores begin with in place of the marks.
  private struct Way {
    var point: RecoveryPoint
    var forwards: [LogForward] = []
    var unreachable: [StoreName: String] = [:]
  }

  /// What there is of the stores that any of the points only marks.
  private func ways(
    of points: [RecoveryPoint], _ stores: [StoreName]
  ) async throws -> [StoreName: LogWays] {
    var result: [StoreName: LogWays] = [:]
    for store in stores where points.contains(where: { $0.logged?[store] != nil }) {
      result[store] = try await Logs(system).ways(of: store)
    }
    return result
  }

  private func way(
    to point: RecoveryPoint, _ ways: [StoreName: LogWays]
  ) -> Way {
    var way = Way(point: point)
    for (store, logged) in point.logged ?? [:] {
      guard let ways = ways[store] else { continue }
      do throws(RecoveryError) {
        guard let forward = try ways.to(.mark(logged.position)).first, var part = ways.parts[forward.point] else {
          throw .logLagsBehind(store, target: logged.position.value, why: "its copy has gone")
        }
        part.cut = logged.cut
        way.point.stores[store] = part
        way.forwards.append(forward)
      } catch { way.unreachable[store] = error.report.summary }
    }
    return way
  }

  /// A point with copies in place of marks, and how they go on.
  func resolved(_ point: RecoveryPoint) async throws -> (RecoveryPoint, [LogForward]) {
    let way = way(to: point, try await ways(of: [point], (point.logged ?? [:]).keys.sorted()))
    if let (store, why) = way.unreachable.min(by: { $0.key < $1.key }) {
      throw RecoveryError.pointDamaged(point.id.text, why: "\(store): \(why)")
    }
    return (way.point, way.forwards)
  }

  /// Reads the copies that the marked stores of a point begin with, and their logs up to it.
  func damage(
    alongLogsTo point: RecoveryPoint, _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> [(StoreName, String?)] {
    let stores = (point.logged ?? [:]).keys.sorted()
    let way = way(to: point, try await ways(of: [point], stores))
    var result: [(StoreName, String?)] = []
    for store in stores {
      guard let forward = way.forwards.first(where: { $0.store == store }), let declared = system.catalog.store(store)
      else {
        result.append((store, way.unreachable[store] ?? "the catalog has no such store"))
        continue
      }
      let system = system
      let vault = try await system.vault(of: declared.repository)
      progress("\(store) in \(point.id)")
      let points = PointCatalog(vault: vault, pool: system.host.pool)
      if let damage = try await points.damage(of: store, in: way.point, from: forward.point) {
        result.append((store, damage))
        continue
      }
      progress("the log of \(store) up to \(point.id)")
      let source = forward.replay { () async throws(AnyFailure) in
        LogArchive(vault: vault, store: store, pool: system.host.pool)
      }.source
      do throws(AnyFailure) {
        for extent in try await source.extents() { try await source.read(extent) { _, _ in } }
        result.append((store, nil))
      } catch {
        if error.isCancellation || ["STORE-", "IO-"].contains(where: { error.report.code.hasPrefix($0) }) {
          throw error
        }
        result.append((store, error.report.summary))
      }
    }
    return result
  }

  private func damage(in facts: PointFacts, _ stores: [StoreName]) -> String? {
    for store in stores {
      switch facts.stores[store]?.state {
      case .held, .outside: continue
      case .unreachable(let why): return "\(store): \(why)"
      case .corrupt(let why): return "its copy of \(store) is damaged: \(why)"
      case .missing, nil: return "it has no copy of \(store)"
      }
    }
    return nil
  }

  private func facts(
    of way: Way, _ stores: [StoreName], in points: PointCatalog, verifies: Bool,
    progress: @escaping @Sendable (_ phase: String) -> Void
  ) async throws -> PointFacts {
    let point = way.point
    var facts: [StoreName: StoreFacts] = [:]
    for name in stores {
      guard let part = point.stores[name] else {
        facts[name] = StoreFacts(way.unreachable[name].map { .unreachable($0) } ?? .missing)
        continue
      }
      var state: StoreFacts.State
      switch part.cut {
      case .held, .moment: state = .held
      case .outside(let why): state = .outside(why)
      }
      if verifies {
        progress("verify \(name) in \(point.id)")
        let origin = way.forwards.first { $0.store == name }?.point
        if let damage = try await points.damage(of: name, in: point, from: origin) { state = .corrupt(damage) }
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
    merged.forwards += b.forwards
    return merged
  }
}

/// A point that was not chosen.
package struct RejectedPoint: Sendable, Codable, Equatable {
  package var id: String
  package var why: String
}
