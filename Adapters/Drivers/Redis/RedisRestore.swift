import Core
import DriverKit
import Glibc
import IO

extension RedisDriver {
  /// Paths and settings of one restore.
  struct Place: Sendable {
    var directory: String
    var workspace: String
    var settings: ServerSettings
    var facts: Facts

    var captured: String { "\(workspace)/captured" }
    var proof: String { "\(workspace)/proof" }
    /// Keys per database of what lies beside, as a server counted them.
    var counted: String { "\(workspace)/\(RedisDriver.Place.countedName)" }
    /// There from the swap until a started server was seen to hold what was counted.
    var unproved: String { "\(workspace)/\(RedisDriver.Place.unprovedName)" }
    static let countedName = "counted"
    static let unprovedName = "unproved"
    /// Written last: what lies beside is whole.
    var ready: String { "\(workspace)/ready" }
    var swap: EntrySwap {
      // Names a server could load its state from; `appendonly.aof` is where versions before 7 kept theirs.
      var names = [settings.databaseFile, settings.appendDirectory]
      if !names.contains(settings.appendFile) { names.append(settings.appendFile) }
      return EntrySwap(directory: directory, workspace: workspace, names: names)
    }
  }

  func place(_ request: RestoreRequest) async throws(DriverError) -> Place {
    let facts = try Facts(request.capture.facts)
    var settings = facts.settings
    if let path = configuration.configFile {
      let text = await environment.pool.run { try? Files.read(path, limitBytes: 1 << 20) }
      if let text { settings.override(withConfiguration: String(decoding: text, as: UTF8.self)) }
    }
    var directory = configuration.dataDirectory ?? settings.values["dir"] ?? ""
    while directory.count > 1, directory.hasSuffix("/") { directory.removeLast() }
    guard directory.hasPrefix("/") else {
      throw .badOption(
        store: configuration.store, option: "dataDirectory",
        why: "is required for a restore: neither the capture nor the configuration says where the server keeps its data"
      )
    }
    // Inside the directory: the one place that is certainly on the same file system, also if it is a mount point.
    let workspace = request.workspace(beside: "\(directory)/\(settings.databaseFile)")
    return Place(directory: directory, workspace: workspace, settings: settings, facts: facts)
  }

  // MARK: Before

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    var findings: [Finding] = []
    func add(_ error: DriverError) { findings.append(Finding(error.report)) }
    let place: Place
    do throws(DriverError) { place = try await self.place(request) } catch {
      add(error)
      return findings
    }
    do throws(DriverError) { if let replay = request.replay { try requireKnown(replay.target) } } catch { add(error) }
    do throws(DriverError) {
      let installed = try await installedVersion()
      let captured = EngineVersion(request.capture.version)
      if !installed.isAtLeast(7, 0) || captured.map({ !installed.reads($0) }) ?? true {
        add(.engineVersion(captured: request.capture.version, found: installed.description))
      }
    } catch { add(error) }

    // The captured files, a dump of the same state, and the links for proving it.
    let (needed, overflow) = max(0, request.capture.sizeBytes).multipliedReportingOverflow(by: 2)
    let directory = place.directory
    let parent = await environment.pool.run { Self.existing(directory) }
    let free = await environment.pool.run { (try? Files.freeBytes(at: parent)) ?? 0 }
    if overflow || needed > free {
      add(
        .system(
          .init(
            Report("DRIVER-602", "\(directory) has \(free) bytes free; restoring beside needs about \(needed)")
              .remedy("make room on that file system, then run the command again"))))
    }
    if await environment.pool.run({ access(parent, W_OK) }) != 0 {
      add(.system(.init(SystemFailure("write", path: parent, number: EACCES).report)))
    }
    if await isServing(), !configuration.canStart {
      add(.serverRunning("the server at \(peer), with no 'start' command or 'configFile' to bring it up again,"))
    }
    return findings
  }

  /// `path`, or the nearest directory above it that exists.
  private static func existing(_ path: String) -> String {
    var path = path
    while !Files.exists(path), path != "/" { path = Files.parent(of: path) }
    return path
  }

  // MARK: Beside

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    var place = try await place(request)
    let pool = environment.pool
    guard try await !pool.run({ [place] () throws(DriverError) in try place.swap.hasBegun() }) else {
      throw .engineFailed(
        "restore \(request.id) has already been swapped in; undo the swap or release it first", log: "")
    }
    if let state = try await earlierTry(place, request) { return state }
    try await clear(place)
    do throws(AnyFailure) {
      try await request.source.materialise(TreePath(), at: place.captured, progress: request.progress)
    } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    var proofs = try await checkFiles(place)
    var position = request.capture.position
    if let replay = request.replay {
      let increment = "\(place.captured)/\(RedisCapture.Names.directory)/\(RedisCapture.Names.increment)"
      let reached = try await goForward(
        replay, from: request.capture, increment: increment, spill: "\(place.workspace)/log")
      position = reached.position
      proofs.append(reached.proof)
      place.facts.databases = max(place.facts.databases, reached.databases)
      // What was counted at the mark says nothing about a later moment.
      place.facts.counts = nil
    }
    try await pool.run { [place] () throws(DriverError) in try Self.link(place) }
    let facts = place.facts
    let keys = try await withScratchServer(
      at: place.proof, increments: [RedisCapture.Names.increment], databases: facts.databases, mode: .timeless
    ) { server throws(DriverError) in
      try await server.compare(with: facts.counts)
      try await server.save()
      return try await server.keyCounts()
    }
    proofs.append("redis-server loaded \(keys.values.reduce(0) { $0 + $1.keys }) keys in \(keys.count) databases")
    if facts.counts != nil { proofs.append("keys and expiring keys per database are those counted under the hold") }
    proofs.append("\(facts.commands) commands up to offset \(request.capture.position.value)")
    let runAs = configuration.runAs
    let size = try await pool.run { [place] () throws(DriverError) -> Int64 in try Self.lay(place, runAs) }
    let state = RestoredState(position: position, sizeBytes: size, proofs: proofs)
    let counted = Dictionary(uniqueKeysWithValues: keys.map { (String($0.key), $0.value) })
    try await pool.run { [place] () throws(DriverError) in
      do {
        try Files.replace(place.counted, with: try CanonicalJSON.encode(counted))
        try Files.replace(place.ready, with: try CanonicalJSON.encode(state))
      } catch { throw DriverError(error) }
    }
    return state
  }

  /// What an earlier try left whole, if it is of the same capture.
  private func earlierTry(_ place: Place, _ request: RestoreRequest) async throws(DriverError) -> RestoredState? {
    await environment.pool.run {
      guard let bytes = try? Files.read(place.ready, limitBytes: 1 << 20),
        let state = try? CanonicalJSON.decode(RestoredState.self, from: bytes), Files.exists(place.swap.next),
        state.position == request.capture.position || request.replay != nil
      else { return nil }
      return state
    }
  }

  /// Removes leftovers, a server that an earlier try left behind first.
  private func clear(_ place: Place) async throws(DriverError) {
    let runAs = configuration.runAs
    try await environment.pool.run { () throws(DriverError) in
      if let directory = try? File(place.proof, O_RDONLY | O_DIRECTORY),
        let socket = try? Socket.connect(
          host: "/proc/self/fd/\(directory.descriptor)/\(ScratchServer.socketName)", port: 0, patience: .seconds(1)),
        let connection = try? Connection(socket, patience: .seconds(5))
      {
        _ = try? connection.call("SHUTDOWN", "NOSAVE", "NOW", "FORCE")
      }
      do throws(SystemFailure) {
        if !Files.exists(place.directory) {
          try Files.createDirectory(place.directory, mode: 0o750)
          if let owner = try Self.owner(of: place.directory, runAs) {
            _ = chown(place.directory, owner.user, owner.group)
          }
        }
        try Files.removeTree(place.workspace)
        try Files.createDirectory(place.workspace, mode: 0o700)
      } catch { throw DriverError(error) }
    }
  }

  /// The files are those of the capture, byte by byte, and the engine's own checkers say they are sound.
  private func checkFiles(_ place: Place) async throws(DriverError) -> [String] {
    let files = "\(place.captured)/\(RedisCapture.Names.directory)"
    let facts = place.facts
    let checkers = [
      (["redis-check-rdb", "\(files)/\(RedisCapture.Names.base)"], "redis-check-rdb"),
      (["redis-check-aof", "\(files)/\(RedisCapture.Names.manifest)"], "redis-check-aof"),
    ]
    return try await environment.pool.run { () throws(DriverError) -> [String] in
      try Self.check("\(files)/\(RedisCapture.Names.base)", facts.base)
      try Self.check("\(files)/\(RedisCapture.Names.increment)", facts.increment)
      var proofs = ["SHA-256 of base and increment"]
      for (words, name) in checkers {
        // Not installed is no finding: the server itself loads the files next.
        guard let result = try? OwnProcess.run(words), result.code != 127 else { continue }
        guard result.code == 0 else { throw .corrupt("\(name): \(result.output.suffix(300))") }
        proofs.append(name)
      }
      return proofs
    }
  }

  private static func check(_ path: String, _ expected: Facts.File?) throws(DriverError) {
    guard let expected else { throw .corrupt("the snapshot doesn't say what \(path) is") }
    var running = RunningDigest()
    var size: Int64 = 0
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY)
      var buffer = [UInt8](repeating: 0, count: 1 << 18)
      while true {
        let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in try file.read(into: raw) }
        if count == 0 { break }
        size += Int64(count)
        buffer.withUnsafeBytes { running.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
      }
    } catch {
      if error.number == ENOENT { throw .corrupt("\(Files.last(of: path)) is missing from the snapshot") }
      throw DriverError(error)
    }
    guard size == expected.bytes else {
      throw .corrupt("\(Files.last(of: path)) has \(size) bytes instead of \(expected.bytes)")
    }
    guard running.finish() == expected.digest else { throw .corrupt("\(Files.last(of: path)) fails its checksum") }
  }

  /// Gives the proving server names of its own for the captured files.
  private static func link(_ place: Place) throws(DriverError) {
    do throws(SystemFailure) {
      let target = "\(place.proof)/appendonlydir"
      try Files.createDirectory(target, mode: 0o700)
      for name in [RedisCapture.Names.base, RedisCapture.Names.increment] {
        try hardLink("\(place.captured)/\(RedisCapture.Names.directory)/\(name)", "\(target)/\(name)")
      }
    } catch { throw DriverError(error) }
  }

  private static func hardLink(_ from: String, _ to: String) throws(SystemFailure) {
    guard Glibc.link(from, to) == 0 else { throw SystemFailure("link", path: to) }
  }

  /// Lays out what will be live, under the names and owners the server expects.
  ///
  /// - Returns: Its size in bytes.
  private static func lay(_ place: Place, _ runAs: String?) throws(DriverError) -> Int64 {
    let (next, settings) = (place.swap.next, place.settings)
    var files: [String] = ["\(next)/\(settings.databaseFile)"]
    do throws(SystemFailure) {
      let owner = try Self.owner(of: place.directory, runAs)
      try Files.createDirectory(next, mode: 0o700)
      try Files.rename("\(place.proof)/dump.rdb", to: "\(next)/\(settings.databaseFile)")
      // Without appendonly a server loads the dump alone, and append-only files of another time must not lie about.
      if settings.isAppendOnly {
        let directory = "\(next)/\(settings.appendDirectory)"
        try Files.createDirectory(directory, mode: 0o755)
        let names = ["\(settings.appendFile).1.base.rdb", "\(settings.appendFile).1.incr.aof"]
        for (from, to) in zip([RedisCapture.Names.base, RedisCapture.Names.increment], names) {
          try Files.rename("\(place.captured)/\(RedisCapture.Names.directory)/\(from)", to: "\(directory)/\(to)")
          files.append("\(directory)/\(to)")
        }
        let manifest = "file \(names[0]) seq 1 type b\nfile \(names[1]) seq 1 type i\n"
        let path = "\(directory)/\(settings.appendFile).manifest"
        try Files.replace(path, with: Array(manifest.utf8))
        files.append(path)
        if let owner, chown(directory, owner.user, owner.group) != 0 { throw SystemFailure("chown", path: directory) }
        try Files.synchronizeDirectory(directory)
      }
      var size: Int64 = 0
      for path in files {
        if let owner, chown(path, owner.user, owner.group) != 0 { throw SystemFailure("chown", path: path) }
        let file = try File(path, O_RDONLY)
        try file.synchronize()
        size += Int64(try file.status().st_size)
      }
      try Files.synchronizeDirectory(next)
      try Files.removeTree(place.proof)
      if !settings.isAppendOnly { try Files.removeTree(place.captured) }
      return size
    } catch { throw DriverError(error) }
  }

  private struct Owner {
    var user: uid_t
    var group: gid_t
  }

  /// `runAs`, or who owns the data directory; `nil` if files can't be given away.
  private static func owner(of directory: String, _ runAs: String?) throws(SystemFailure) -> Owner? {
    guard geteuid() == 0 else { return nil }
    if let runAs {
      var entry = passwd()
      var found: UnsafeMutablePointer<passwd>?
      var buffer = [CChar](repeating: 0, count: 16_384)
      guard getpwnam_r(runAs, &entry, &buffer, buffer.count, &found) == 0, found != nil else {
        throw SystemFailure("getpwnam", path: runAs, number: ENOENT)
      }
      return Owner(user: entry.pw_uid, group: entry.pw_gid)
    }
    var status = stat()
    guard stat(directory, &status) == 0 else { return nil }
    return Owner(user: status.st_uid, group: status.st_gid)
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    try await servingBeside(request) { server throws(DriverError) in try await server.digest() }
  }

  /// Runs `body` with a server over what was restored beside, and ends the server.
  func servingBeside<T: Sendable>(
    _ request: RestoreRequest, _ body: (ScratchServer) async throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    let place = try await place(request)
    let hasAppendOnly = place.settings.isAppendOnly
    try await environment.pool.run { () throws(DriverError) in
      let (next, settings) = (place.swap.next, place.settings)
      guard Files.exists(next), try !place.swap.hasBegun() else {
        throw .engineFailed("nothing lies beside \(place.directory)", log: "")
      }
      do throws(SystemFailure) {
        try Files.removeTree(place.proof)
        let target = "\(place.proof)/appendonlydir"
        try Files.createDirectory(target, mode: 0o700)
        guard hasAppendOnly else {
          return try Self.hardLink("\(next)/\(settings.databaseFile)", "\(target)/\(RedisCapture.Names.base)")
        }
        let files = "\(next)/\(settings.appendDirectory)/\(settings.appendFile)"
        try Self.hardLink("\(files).1.base.rdb", "\(target)/\(RedisCapture.Names.base)")
        try Self.hardLink("\(files).1.incr.aof", "\(target)/\(RedisCapture.Names.increment)")
      } catch { throw DriverError(error) }
    }
    let result = try await withScratchServer(
      at: place.proof, increments: hasAppendOnly ? [RedisCapture.Names.increment] : [],
      databases: place.facts.databases, mode: .persistent, body)
    await environment.pool.run { try? Files.removeTree(place.proof) }
    return result
  }

  // MARK: In place

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let place = try await place(request)
    try await refuseWhileServing()
    try await environment.pool.run { () throws(DriverError) in
      guard try place.swap.hasBegun() || Files.exists(place.ready) else {
        throw .engineFailed("nothing was restored beside \(place.directory)", log: "")
      }
      if try !place.swap.hasBegun() {
        do throws(SystemFailure) { try Files.replace(place.unproved, with: []) } catch { throw DriverError(error) }
      }
      try place.swap.swapIn()
    }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let place = try await place(request)
    let isRecorded = request.isSwapRecorded
    let hasBegun = try await environment.pool.run { () throws(DriverError) in try place.swap.hasBegun() }
    if hasBegun { try await refuseWhileServing() }
    try await environment.pool.run { () throws(DriverError) in try place.swap.swapOut(isRecorded: isRecorded) }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let place = try await place(request)
    try await environment.pool.run { () throws(DriverError) in
      try place.swap.checkSettled()
      do throws(SystemFailure) {
        // First the mark of a finished restore, so that half of it is never taken for a whole one.
        try Files.removeTree(place.ready)
        try Files.removeTree(place.workspace)
      } catch { throw DriverError(error) }
    }
  }

  private func refuseWhileServing() async throws(DriverError) {
    if await isServing() { throw .serverRunning("the server at \(peer)") }
  }
}

extension ScratchServer {
  /// Writes `dump.rdb`.
  func save() async throws(DriverError) {
    let patience = Duration.seconds(24 * 3600)
    try await blocking { (connection) throws(WireError) in _ = try connection.call("SAVE", patience: patience) }
  }
}
