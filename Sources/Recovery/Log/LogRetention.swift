import Core
import Vault

/// Which stretches of logs may go when snapshots are forgotten. Pure: by tags and times alone.
package enum LogRetention {
  /// A stretch of that age more than the copy it leads on from is kept: their times are of two machines' clocks.
  static let margin = Duration.seconds(3600)

  package static func isStretch(_ snapshot: Snapshot) -> Bool { snapshot.tags.contains(LogArchive.tag) }

  /// Stretches that no copy needs which stays: those that end before the oldest copy of their store was taken.
  ///
  /// Of a store that has no copy at all everything stays, and so does the last stretch of each: it says where the log ends.
  ///
  /// - Parameter staying: Every snapshot that is to stay, stretches or not.
  package static func unneeded(_ stretches: [StoredSnapshot], staying: [StoredSnapshot]) -> Set<Digest> {
    var oldest: [String: Timestamp] = [:]
    for stored in staying where !isStretch(stored.snapshot) && stored.snapshot.tags.contains("salvor") {
      guard let store = store(of: stored.snapshot) else { continue }
      oldest[store] = min(oldest[store] ?? stored.snapshot.time, stored.snapshot.time)
    }
    return going(stretches) { store, stored in
      guard let time = oldest[store] else { return false }
      return stored.snapshot.time < time - margin
    }
  }

  /// Of stretches that a policy lets go those before the first that it keeps: never one in the middle.
  package static func leading(_ stretches: [StoredSnapshot], letGo: Set<Digest>) -> Set<Digest> {
    going(stretches) { _, stored in letGo.contains(stored.id) }
  }

  private static func going(
    _ stretches: [StoredSnapshot], _ mayGo: (_ store: String, StoredSnapshot) -> Bool
  ) -> Set<Digest> {
    var stores: [String: [(first: Int64, StoredSnapshot)]] = [:]
    for stored in stretches {
      guard isStretch(stored.snapshot), let store = store(of: stored.snapshot), let first = number(of: stored.snapshot)
      else { continue }
      stores[store, default: []].append((first, stored))
    }
    var result: Set<Digest> = []
    for (store, stretches) in stores {
      let ordered = stretches.sorted { ($0.first, $0.1.id) < ($1.first, $1.1.id) }
      result.formUnion(ordered.dropLast().prefix { mayGo(store, $0.1) }.map(\.1.id))
    }
    return result
  }

  private static func store(of snapshot: Snapshot) -> String? {
    snapshot.tags.first { $0.hasPrefix("store:") }.map { String($0.dropFirst("store:".count)) }
  }

  /// The first of the numbers it holds.
  private static func number(of snapshot: Snapshot) -> Int64? {
    snapshot.tags.first { $0.hasPrefix("log:") }.flatMap { $0.dropFirst("log:".count).split(separator: "-").first }
      .flatMap { Int64($0) }
  }
}
