import Core
import Recovery
import StateKit

/// The recovery points of a system's repositories.
package struct Points: Sendable {
  package struct Listing: Sendable {
    /// Oldest first.
    package var points: [RecoveryPoint]
    package var unreadable: [(snapshot: String, Report)]
  }

  /// What was found when a store's copy was read.
  package struct Verdict: Sendable, Codable {
    package var point: PointID
    package var store: StoreName
    /// `nil`: every byte is as it was written.
    package var damage: String?
  }

  private let system: ManagedSystem

  package init(_ system: ManagedSystem) { self.system = system }

  package func list() async throws(AnyFailure) -> Listing {
    do {
      var listing = Listing(points: [], unreadable: [])
      for repository in system.repositories {
        let points = PointCatalog(vault: try await system.vault(of: repository.name), pool: system.host.pool)
        let found = try await points.list()
        listing.points += found.points
        listing.unreadable += found.unreadable
      }
      listing.points.sort { ($0.time, $0.id) < ($1.time, $1.id) }
      return listing
    } catch {
      throw AnyFailure(error)
    }
  }

  /// What each store of a point comes back from: its copy, and the log that leads on from it where it was only marked.
  ///
  /// - Throws: ``RecoveryError/pointDamaged(_:why:)`` if a store can't be brought there.
  package func copies(of point: RecoveryPoint) async throws(AnyFailure) -> [StoreName: StoreCopy] {
    do {
      let (point, forwards) = try await PointSelection(system: system).resolved(point)
      let environment = LiveRestore(system: system, point: point, forwards: forwards, invariantNames: [])
      var copies: [StoreName: StoreCopy] = [:]
      for store in point.stores.keys { copies[store] = try await environment.copy(of: store) }
      return copies
    } catch { throw AnyFailure(error) }
  }

  /// As ``verify(_:all:progress:)``, on record.
  package func verify(
    _ id: String?, all: Bool, journal: any RunJournal, progress: @escaping @Sendable (String) -> Void
  ) async throws(AnyFailure) -> [Verdict] {
    let subject = "verify/\(id ?? (all ? "all" : "newest"))"
    return try await RecordedAct.carryOut(
      .verify, subject, details: ["catalogDigest": .string(system.catalog.digest.hex)], host: system.host,
      journal: journal
    ) { _ in
      let verdicts = try await verify(id, all: all, progress: progress)
      return (
        verdicts,
        [
          "copies": .integer(Int64(verdicts.count)),
          "damaged": .array(verdicts.filter { $0.damage != nil }.map { .string("\($0.point)/\($0.store)") }),
          "points": .array(Set(verdicts.map(\.point.text)).sorted().map { .string($0) }),
        ]
      )
    }
  }

  /// Reads every byte of the named point, of all, or of the newest of each group.
  package func verify(
    _ id: String?, all: Bool, progress: @escaping @Sendable (String) -> Void
  ) async throws(AnyFailure) -> [Verdict] {
    do {
      var verdicts: [Verdict] = []
      for repository in system.repositories {
        let points = PointCatalog(vault: try await system.vault(of: repository.name), pool: system.host.pool)
        var wanted = try await points.list().points
        if let id {
          wanted = wanted.filter { $0.id.text.hasPrefix(id) || $0.name == id }
        } else if !all {
          // What is only marked begins with one of these.
          wanted = Dictionary(
            wanted.filter { $0.logged == nil }.map { ($0.group, $0) },
            uniquingKeysWith: { $1.time < $0.time ? $0 : $1 }
          )
          .values.sorted { $0.id < $1.id }
        }
        for point in wanted {
          for store in point.stores.keys.sorted() {
            progress("\(store) in \(point.id)")
            verdicts.append(
              Verdict(point: point.id, store: store, damage: try await points.damage(of: store, in: point)))
          }
          for (store, damage) in try await PointSelection(system: system).damage(alongLogsTo: point, progress) {
            verdicts.append(Verdict(point: point.id, store: store, damage: damage))
          }
        }
      }
      if let id, verdicts.isEmpty { throw RecoveryError.noSuchPoint(id) }
      return verdicts
    } catch {
      throw AnyFailure(error)
    }
  }
}
