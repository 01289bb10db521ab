import Catalog
import Core
import DriverKit
import IO
import Recovery
import Synthetic

#if canImport(Glibc)
  import Glibc
#endif

/// Learns what a system's data looks like, from a point that is restored in private, and makes other data like it.
package struct SyntheticData: Sendable {
  package struct Request: Sendable {
    package var stores: [StoreName] = []
    package var point: String?
    package var verifies = true
    /// Where the point is restored in private.
    package var work = "/var/tmp"
    /// Columns whose values may stand in a profile: `store:table.column`.
    package var isPublic: [String] = []
    /// `store:table.column=store:table.column`.
    package var links: [String] = []

    package init() {}
  }

  let system: ManagedSystem

  package init(_ system: ManagedSystem) { self.system = system }

  package func learn(
    _ request: Request, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> SyntheticProfile {
    try await wrapped {
      let tables: Set<DriverName> = ["sqlite", "postgresql"]
      let stores =
        request.stores.isEmpty
        ? system.catalog.stores.filter { tables.contains($0.driver) }.map(\.name) : request.stores
      for name in stores {
        guard let store = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
        guard tables.contains(store.driver) else { throw SyntheticError.unsupported(name, driver: store.driver.text) }
      }
      let restore = PrivateRestore(system: system)
      let chosen = try await restore.choose(
        stores, point: request.point, verifies: request.verifies, progress: progress)
      return try await PrivateRestore.withWorkspace(beside: "\(request.work)/synthesize", host: system.host) { work in
        var profile = SyntheticProfile(stores: [:])
        for one in try await restore.restore(chosen, stores, in: work, progress: progress) {
          let learning = Learning(one.store, request.isPublic)
          for table in try await one.rewriter.shape().tables { learning.begin(table) }
          try await one.rewriter.read(limit: 1_000_000) { piece throws(AnyFailure) in learning.take(piece) }
          profile.stores[one.store] = .init(driver: one.driver, tables: learning.tables)
        }
        profile.links = try links(request.links, profile) + invariants(profile)
        return profile
      }
    }
  }

  private func links(_ texts: [String], _ profile: SyntheticProfile) throws -> [SyntheticProfile.Link] {
    try texts.map { text in
      let ends = text.split(separator: "=").map { end(String($0), profile) }
      guard ends.count == 2, let from = ends[0], let to = ends[1] else { throw SyntheticError.badLink(text) }
      return .init(from.0, from.1, from.2, to: to.0, to.1, to.2)
    }
  }

  private func end(_ text: String, _ profile: SyntheticProfile) -> (StoreName, String, String)? {
    let parts = text.split(separator: ":", maxSplits: 1)
    guard parts.count == 2, let store = StoreName(parts[0]), let dot = parts[1].lastIndex(of: ".") else { return nil }
    let (table, column) = (String(parts[1][..<dot]), String(parts[1][parts[1].index(after: dot)...]))
    guard
      profile.stores[store]?.tables.contains(where: { $0.shape.name == table && $0.shape.index(of: column) != nil })
        == true
    else { return nil }
    return (store, table, column)
  }

  /// Invariants that say one column's values are another's, where both are plain queries of a column.
  private func invariants(_ profile: SyntheticProfile) -> [SyntheticProfile.Link] {
    system.catalog.invariants.compactMap { invariant in
      guard case .references(let from, let to, _) = invariant.rule, let a = column(from.store, from.query, profile),
        let b = column(to.store, to.query, profile), from.store != to.store
      else { return nil }
      return .init(from.store, a.0, a.1, to: to.store, b.0, b.1)
    }
  }

  /// Of `SELECT column FROM table`, with anything but a comma after the first column's name refused.
  private func column(_ store: StoreName, _ query: String, _ profile: SyntheticProfile) -> (String, String)? {
    let words = query.split(whereSeparator: { $0.isWhitespace || $0 == ";" }).map(String.init)
    guard words.count == 4, words[0].lowercased() == "select", words[2].lowercased() == "from" else { return nil }
    let table = profile.stores[store]?.tables.first {
      ($0.shape.name == words[3] || $0.shape.name.hasSuffix("." + words[3])) && $0.shape.index(of: words[1]) != nil
    }
    return table.map { ($0.shape.name, words[1]) }
  }

  // MARK: Making

  package struct Outcome: Sendable, Codable, Equatable {
    package var seed: UInt64
    /// By store and table.
    package var rows: [StoreName: [String: Int]] = [:]
  }

  /// Writes data into a new directory: what engines load, and a JSON object a line of every table.
  package static func make(
    _ profile: SyntheticProfile, seed: UInt64, scale: Double, to directory: String, host: Machine
  ) async throws(AnyFailure) -> Outcome {
    try await wrapped {
      try await host.pool.run { () throws(AnyFailure) in
        do { return try write(profile, seed, scale, directory, host) } catch { throw AnyFailure(error) }
      }
    }
  }

  private static func write(
    _ profile: SyntheticProfile, _ seed: UInt64, _ scale: Double, _ directory: String, _ host: Machine
  ) throws -> Outcome {
    guard try !Files.isThere(directory) else { throw SyntheticError.destination(directory) }
    let made = try Synthesizer(profile, seed: seed, scale: scale).make()
    let work = "\(Files.parent(of: directory))/.salvor-synthetic-\(Hex.encode(host.randomness.bytes(6)))"
    try Files.createDirectory(work, mode: 0o755)
    do {
      var outcome = Outcome(seed: seed)
      var loads: [StoreName: String] = [:]
      for one in made {
        let isPostgreSQL = profile.stores[one.store]?.driver == "postgresql"
        try Files.createDirectory("\(work)/\(one.store)")
        // A name from a schema is no path.
        let name = one.table.name.replacing("/", with: "_")
        try Files.replace(
          "\(work)/\(one.store)/\(name).jsonl", with: Array(LoadText.lines(one.table, one.rows).utf8), mode: 0o644)
        loads[one.store, default: ""] +=
          LoadText.create(one.table, isPostgreSQL: isPostgreSQL)
          + (isPostgreSQL ? LoadText.copy(one.table, one.rows) : LoadText.insert(one.table, one.rows))
        outcome.rows[one.store, default: [:]][one.table.name] = one.rows.count
      }
      for (store, text) in loads {
        try Files.replace("\(work)/\(store)/load.sql", with: Array("BEGIN;\n\(text)COMMIT;\n".utf8), mode: 0o644)
      }
      try Files.renameExclusive(work, to: directory)
      return outcome
    } catch {
      try? Files.removeTree(work)
      throw error
    }
  }
}

/// Filled by one thread at a time.
private final class Learning: @unchecked Sendable {
  private let store: StoreName
  private let isPublic: [String]
  private var learners: [(String, TableLearner)] = []

  init(_ store: StoreName, _ isPublic: [String]) { (self.store, self.isPublic) = (store, isPublic) }

  func begin(_ table: TableShape) {
    let open = Set(table.columns.map(\.name).filter { isPublic.contains("\(store):\(table.name).\($0)") })
    learners.append((table.name, TableLearner(table, isPublic: open)))
  }

  func take(_ piece: ContentPiece) {
    guard case .row(let values, let table) = piece, let index = learners.firstIndex(where: { $0.0 == table.name })
    else { return }
    learners[index].1.take(values)
  }

  var tables: [SyntheticProfile.Table] { learners.map(\.1.profile) }
}
