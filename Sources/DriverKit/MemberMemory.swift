import Core
import IO

/// Where one of several copies takes connections.
package struct MemberAddress: Sendable, Equatable {
  package var name: MemberName
  package var host: String
  package var port: UInt16

  package init(name: MemberName, host: String, port: UInt16) { (self.name, self.host, self.port) = (name, host, port) }
}

/// What a member was made last, beside its data directory: for engines that can't keep it themselves, and are started as
/// standbys of nobody whatever they were.
package struct MemberMemory: Sendable, Equatable, Codable {
  package enum Role: String, Sendable, Codable { case primary, standby }

  /// `nil` before anything was asked of it.
  package var role: Role?
  package var following: MemberName?
  /// The highest lineage it has begun.
  package var lineage: Int64 = 0
  /// A copy of that member's data is to take the place of what is here, and isn't whole yet.
  package var copying: MemberName?
  /// What only this member had has been copied aside, for the return that is under way.
  package var hasEvidence: Bool?
  /// The server process that has all it ever confirmed; one that was started anew may have less.
  package var complete: String?

  package init() {}

  package static func path(_ dataDirectory: String) -> String { dataDirectory + ".salvor.json" }

  /// Blocks.
  ///
  /// - Throws: Also if what is there can't be read: what it was is in it.
  package static func read(_ dataDirectory: String) throws(DriverError) -> MemberMemory {
    let path = path(dataDirectory)
    do {
      guard try Files.isThere(path) else { return MemberMemory() }
      return try CanonicalJSON.decode(MemberMemory.self, from: Files.read(path, limitBytes: 1 << 16))
    } catch let error as SystemFailure {
      throw DriverError(error)
    } catch { throw .corrupt("\(path) can't be read: \(error)") }
  }

  /// On stable storage when it returns. Blocks.
  package func write(_ dataDirectory: String) throws(DriverError) {
    do {
      try Files.replace(Self.path(dataDirectory), with: CanonicalJSON.encode(self))
    } catch { throw (error as? SystemFailure).map { DriverError($0) } ?? .corrupt("\(error)") }
  }
}

/// Copies of a data directory beside it, made before what only this member has is undone: `<directory>.kept-<moment>`.
package struct KeptCopies: Sendable {
  package var directory: String
  /// How many stay; the oldest go, once a new one is whole.
  package var limit: Int

  package init(of directory: String, limit: Int) { (self.directory, self.limit) = (directory, max(1, limit)) }

  private var prefix: String { Files.last(of: directory) + ".kept-" }
  private static let unfinished = ".part"

  /// Whole ones, oldest first. Blocks.
  package func all() throws(SystemFailure) -> [String] {
    let place = Files.parent(of: directory)
    return try Files.names(in: place).map(\.lossyText)
      .filter { $0.hasPrefix(prefix) && !$0.hasSuffix(Self.unfinished) }.sorted().map { "\(place)/\($0)" }
  }

  /// Copies the directory of an engine that doesn't run.
  ///
  /// - Throws: ``DriverError``; also if there is no room, since nothing may be undone then.
  package func keep(at moment: Timestamp, on pool: BlockingPool) async throws(DriverError) {
    let target = "\(directory).kept-\("\(moment)".filter(\.isNumber))"
    let part = target + Self.unfinished
    try await blocking(pool) { () throws(SystemFailure) in
      // What a crash left is no evidence of anything.
      for name in try Files.names(in: Files.parent(of: directory)).map(\.lossyText)
      where name.hasPrefix(prefix) && name.hasSuffix(Self.unfinished) {
        try Files.removeTree("\(Files.parent(of: directory))/\(name)")
      }
    }
    try await requireRoom(on: pool)
    try await ServerCommand(executable: "cp", arguments: ["-a", "--reflink=auto", directory, part], user: nil).run()
    try await ServerCommand(executable: "sync", arguments: ["-f", part], user: nil).run()
    try await moved(part, to: target, on: pool)
  }

  /// Makes a directory of the engine's that has been put aside one of the copies.
  package func adopt(_ part: String, at moment: Timestamp, on pool: BlockingPool) async throws(DriverError) {
    try await moved(part, to: "\(directory).kept-\("\(moment)".filter(\.isNumber))", on: pool)
  }

  private func moved(_ part: String, to target: String, on pool: BlockingPool) async throws(DriverError) {
    try await blocking(pool) { () throws(SystemFailure) in
      try Files.renameExclusive(part, to: target)
      try Files.synchronizeDirectory(Files.parent(of: directory))
      for path in try all().dropLast(limit) { try Files.removeTree(path) }
    }
  }

  /// As much as the directory takes must be free beside it; where blocks can be shared, less is needed and this is careful.
  private func requireRoom(on pool: BlockingPool) async throws(DriverError) {
    let said = try await ServerCommand(executable: "du", arguments: ["-sk", directory], user: nil).run()
    guard let needs = said.split(whereSeparator: \.isWhitespace).first.flatMap({ Int64($0) }) else { return }
    let place = Files.parent(of: directory)
    let free = await pool.run { try? Files.freeBytes(at: place) }
    guard let free, free / 1024 < needs else { return }
    throw .system(
      .init(
        Report("DRIVER-602", "evidence of \(directory) needs \(needs) KiB in \(place), which has \(free / 1024) free")
          .remedy("make room there, or move older copies away: what only this member has is not undone without")))
  }
}

/// Runs a system call's body on the pool.
private func blocking(
  _ pool: BlockingPool, _ body: @escaping @Sendable () throws(SystemFailure) -> Void
) async throws(DriverError) {
  do throws(SystemFailure) { try await pool.run(body) } catch { throw DriverError(error) }
}
