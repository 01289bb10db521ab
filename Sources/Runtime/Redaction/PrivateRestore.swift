import Catalog
import Core
import DriverKit
import IO
import Recovery
import Redaction

#if canImport(Glibc)
  import Glibc
#endif

/// Brings stores of a point back into a directory of nobody else's, for whoever looks at them or makes them anew.
///
/// The drivers are the catalog's own, told another place and nothing else: no port, no password, no start command. No server of
/// production's is asked, none is started but behind a socket in a directory of its own.
struct PrivateRestore: Sendable {
  let system: ManagedSystem

  /// A store that was brought back.
  struct Restored: Sendable {
    var store: StoreName
    var driver: DriverName
    var rewriter: any StoreRewriter
    /// What the state is called, such as `ledger.db`.
    var entry: String
  }

  /// Where the state of a store goes below `directory`.
  static func entry(_ store: DataStore) -> String {
    switch store.driver {
    case "sqlite": Files.last(of: store.options["path"]?.string ?? "\(store.name).db")
    case "files": Files.last(of: store.options["path"]?.string ?? "files")
    default: "data"
    }
  }

  /// - Returns: `nil` if this kind of store can't be made anew.
  static func driver(
    _ store: StoreName, _ driver: DriverName, _ options: [String: JSONValue], at path: String, host: Machine
  ) throws -> (any DataStoreDriver)? {
    var kept: [String: JSONValue] = [:]
    switch driver {
    case "sqlite", "files": kept["path"] = .string(path)
    case "postgresql":
      kept["dataDirectory"] = .string(path)
      for name in ["binDirectory", "runAs", "user"] { kept[name] = options[name] }
      // Whose server it is, since nothing is there yet that somebody owns.
      if kept["runAs"] == nil, geteuid() == 0 {
        kept["runAs"] = .string(owner(of: options["dataDirectory"]?.string ?? path) ?? "postgres")
      }
    case "redis":
      kept["dataDirectory"] = .string(path)
      // Where nobody ever listens: the server in use must not be taken for one that is in the way.
      kept["host"] = .string(path + "-no-server")
      for name in ["binary", "runAs"] { kept[name] = options[name] }
    default: return nil
    }
    guard let factory = Registry.driver(driver) else { throw RegistryError.unknownDriver(driver) }
    return try factory.make(StoreConfiguration(name: store, options: kept), in: host.driverEnvironment)
  }

  private static func owner(of path: String) -> String? {
    var information = stat()
    guard stat(path, &information) == 0, let entry = getpwuid(information.st_uid) else { return nil }
    return String(cString: entry.pointee.pw_name)
  }

  /// - Parameters:
  ///   - work: A directory that is there, and goes with whoever made it.
  ///   - verifies: Read every byte of the copies first.
  func restore(
    _ chosen: PointSelection.Chosen, _ stores: [StoreName], in work: String,
    progress: @escaping @Sendable (String) -> Void
  ) async throws -> [Restored] {
    // No prune takes away what is being read.
    try await system.holdingRepositories(of: stores, until: ReadingEnd()) {
      try await bringBack(chosen, stores, in: work, progress)
    }
  }

  private func bringBack(
    _ chosen: PointSelection.Chosen, _ stores: [StoreName], in work: String,
    _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> [Restored] {
    var result: [Restored] = []
    for name in stores {
      guard let store = system.catalog.store(name) else { throw RecoveryError.noSuchStore(name) }
      let place = "\(work)/\(name)"
      let path = "\(place)/\(Self.entry(store))"
      guard let driver = try Self.driver(name, store.driver, store.options, at: path, host: system.host),
        let rewriter = driver.rewriter(), let part = chosen.point.stores[name]
      else { throw RedactionError.unsupported(store: name, driver: store.driver.text) }
      if let why = rewriter.refusal(of: part.capture) { throw DriverError.unsupported("store \(name): \(why)") }
      // A server's user has to pass; the state itself is closed to everybody else.
      let mode: mode_t = store.driver == "postgresql" && geteuid() == 0 ? 0o711 : 0o700
      try await system.host.pool.run { () throws(SystemFailure) in
        try Files.createDirectory(place, mode: mode)
        guard chmod(place, mode) == 0 else { throw SystemFailure("chmod", path: place) }
      }
      progress("restore \(name)")
      let forward = chosen.forwards.first { $0.store == name }
      let vault = try await system.vault(of: store.repository)
      let copy = try await PointCatalog(vault: vault, pool: system.host.pool)
        .copy(of: name, in: chosen.point, from: forward?.point)
      var request = RestoreRequest(id: "redaction", source: copy.source, capture: copy.capture)
      if let forward {
        let pool = system.host.pool
        request.replay = forward.replay { () async throws(AnyFailure) in
          LogArchive(vault: vault, store: name, pool: pool)
        }
        request.capture.contentDigest = nil
      }
      _ = try await driver.restoreBeside(request)
      try await driver.swapIn(request)
      try await driver.discardKept(request)
      result.append(Restored(store: name, driver: store.driver, rewriter: rewriter, entry: Self.entry(store)))
    }
    return result
  }

  /// Chooses a point for `stores`, and says which stores there are.
  func choose(
    _ stores: [StoreName], point: String?, verifies: Bool, progress: @escaping @Sendable (String) -> Void
  ) async throws -> PointSelection.Chosen {
    let chosen = try await PointSelection(system: system)
      .choose(stores: stores, named: point, at: nil, verifies: verifies, progress: progress)
    for rejected in chosen.rejected { system.host.log("passed over \(rejected.id): \(rejected.why)") }
    return chosen
  }

  /// Ends what works in a directory that is nobody's any more: servers that a run left when it was killed. Blocks.
  private static func endServers(in directory: String) throws(SystemFailure) {
    for name in try Files.names(in: "/proc").map(\.lossyText) {
      guard let pid = pid_t(name) else { continue }
      var buffer = [CChar](repeating: 0, count: 4096)
      let count = readlink("/proc/\(pid)/cwd", &buffer, buffer.count)
      guard count > 0 else { continue }
      let place = String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
      if place.hasPrefix(directory + "/") { kill(pid, SIGKILL) }
    }
  }

  /// Runs `body` with a new directory beside `place`, which is gone afterwards. Whatever a run that was killed left there goes first.
  static func withWorkspace<T>(
    beside place: String, host: Machine, _ body: (String) async throws -> T
  ) async throws -> T {
    let parent = Files.parent(of: place)
    let prefix = ".salvor-redact-\(Files.last(of: place))-"
    let work = "\(parent)/\(prefix)\(Hex.encode(host.randomness.bytes(6)))"
    let lock = try await host.pool.run { () throws(SystemFailure) -> File in
      for name in try Files.names(in: parent).map(\.lossyText) where name.hasPrefix(prefix) {
        let left = try File("\(parent)/\(name)", O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        guard flock(left.descriptor, LOCK_EX | LOCK_NB) == 0 else { continue }
        try endServers(in: "\(parent)/\(name)")
        try Files.removeTree("\(parent)/\(name)")
      }
      try Files.createDirectory(work, mode: 0o711)
      guard chmod(work, 0o711) == 0 else { throw SystemFailure("chmod", path: work) }
      let lock = try File(work, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
      guard flock(lock.descriptor, LOCK_EX | LOCK_NB) == 0 else { throw SystemFailure("flock", path: work) }
      return lock
    }
    let result: Result<T, any Error>
    do { result = .success(try await body(work)) } catch { result = .failure(error) }
    try await host.pool.run { () throws(SystemFailure) in try Files.removeTree(work) }
    withExtendedLifetime(lock) {}
    return try result.get()
  }
}
