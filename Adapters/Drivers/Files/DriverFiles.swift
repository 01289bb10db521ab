import Core
import DriverKit
import IO

/// A tree of files with their metadata.
package enum FilesDriverFactory: DriverFactory {
  package static let name: DriverName = "files"
  package static let summary =
    "A directory with everything below it; part of a consistent cut if its writers take a lock."
  package static let options: [OptionSchema] = [
    OptionSchema("path", .path, required: true, help: "The directory."),
    OptionSchema(
      "excludes", .strings,
      help: "Patterns of what is left out: `*`, `?`, `[…]` within a name, `**` for any directories; "
        + "one without `/` fits at any depth."),
    OptionSchema(
      "lockFile", .string,
      help:
        "A file, absolute or below `path`, that every writer locks with flock(2) shared while it changes something; "
        + "brings the store into the cut."),
    OptionSchema(
      "immutable", .boolean, default: "false",
      help: "Files never change once they have their name: the tree is listed at the mark, and a listed file that "
        + "changed is an error."),
    OptionSchema(
      "log", .path,
      help:
        "A directory of its own on this machine, outside of `path`, where a follower notes what it has seen; with it "
        + "the tree can be followed."),
  ]

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    let store = configuration.name
    let path = try configuration.required("path")
    guard path.hasPrefix("/"), path != "/", !path.hasSuffix("/"), !path.utf8.contains(0) else {
      throw .badOption(store: store, option: "path", why: "is not the absolute path of a directory below /")
    }
    var patterns: [PathPattern] = []
    for text in configuration.strings("excludes") {
      guard let pattern = PathPattern(text) else {
        throw .badOption(store: store, option: "excludes", why: "has a pattern that fits nothing: '\(text)'")
      }
      patterns.append(pattern)
    }
    var lockFile: String?
    if let name = configuration.string("lockFile") {
      guard !name.isEmpty, !name.hasSuffix("/"), !name.utf8.contains(0) else {
        throw .badOption(store: store, option: "lockFile", why: "is not the name of a file")
      }
      lockFile = name.hasPrefix("/") ? name : "\(path)/\(name)"
    }
    let log = configuration.string("log")
    if let log {
      guard log.hasPrefix("/"), !log.hasSuffix("/"), !log.utf8.contains(0) else {
        throw .badOption(store: store, option: "log", why: "is not the absolute path of a directory")
      }
      guard log != path, !log.hasPrefix(path + "/") else {
        throw .badOption(store: store, option: "log", why: "is inside of the tree, which would follow itself")
      }
    }
    return FilesDriver(
      path: path, excludes: patterns, lockFile: lockFile, isImmutable: configuration.boolean("immutable") ?? false,
      log: log, environment: environment)
  }
}

/// One tree. Symbolic links in it are stored as links and never followed.
struct FilesDriver: DataStoreDriver {
  let path: String
  let excludes: [PathPattern]
  let lockFile: String?
  let isImmutable: Bool
  /// Where a follower keeps its notes.
  let log: String?
  let environment: DriverEnvironment

  var pool: BlockingPool { environment.pool }

  func traits() async throws(DriverError) -> DriverTraits {
    let (path, lockFile, isImmutable) = (path, lockFile, isImmutable)
    return try await pool.run { () throws(DriverError) -> DriverTraits in
      guard Files.isDirectory(path) else { throw .unreachable("\(path): it is not a directory") }
      if let lockFile {
        let isThere: Bool
        do { isThere = try Files.isThere(lockFile) } catch { throw DriverError(error) }
        guard isThere else { throw .unreachable("the lock file \(lockFile): it is not there") }
        return DriverTraits(
          version: "", hold: .held(how: "the writers' lock (flock on \(lockFile))"),
          notes: ["only writers that take the lock are held; a file that others change after the mark fails the point"])
      }
      let how = "let its writers take flock(2) shared on one file around each change and name that file as 'lockFile'"
      return DriverTraits(
        version: "",
        hold: .outside(
          why: isImmutable
            ? "nothing makes writers wait; the tree is listed at the mark, so every file that was there then is in "
              + "the point, and a few newer ones may be; to bring it into the cut, \(how)"
            : "files change while they are copied and nothing makes writers wait; to bring the store into the cut, \(how)"
        ))
    }
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    FilesCapture(self, context)
  }

  // MARK: Restoring

  func swap(_ request: RestoreRequest) -> PathSwap {
    PathSwap(live: path, workspace: request.workspace(beside: path))
  }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    let swap = swap(request)
    if let replay = request.replay {
      do throws(DriverError) { try requireKnown(replay.target) } catch { return [Finding(error.report)] }
    }
    return await pool.run {
      var found = swap.precheck(needsBytes: request.capture.sizeBytes)
      if capturedName(request.capture) == nil {
        found.append(
          Finding(
            Report("DRIVER-611", "the snapshot does not say which directory holds the tree", retry: .never)
              .remedy("restore it with restic and check what it holds")))
      }
      return found
    }
  }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let swap = swap(request)
    // Who goes along a log is given a copy without one.
    let expected = request.capture.contentDigest
    guard let name = capturedName(request.capture), expected != nil || request.replay != nil else {
      throw .corrupt("the snapshot does not say which directory holds the tree, or has no digest of it")
    }
    let isComplete = try await pool.run { () throws(DriverError) -> Bool in
      guard try !swap.isSwapped() else {
        throw .unsupported("this restore has been swapped in already; there is nothing beside to restore to")
      }
      try swap.prepare()
      return try swap.isComplete()
    }
    let place = isComplete ? swap.beside : swap.incomplete
    if !isComplete {
      let tree = swap.workspace + "/tree"
      do { try await pool.run { () throws(SystemFailure) -> Void in try Files.removeTree(tree) } } catch {
        throw DriverError(error)
      }
      do { try await request.source.materialise(TreePath(), at: tree, progress: request.progress) } catch {
        throw error.isCancellation ? .cancelled : .sink(error)
      }
      do {
        try await pool.run { () throws(SystemFailure) -> Void in
          try Files.renameExclusive("\(tree)/\(name)", to: place)
          try Files.removeTree(tree)
        }
      } catch {
        throw DriverError(error)
      }
    }
    let state: RestoredState
    if isComplete, request.replay != nil {
      state = try await broughtForward(swap)
    } else {
      let found = try await digest(of: place)
      var proofs: [String] = []
      if let expected {
        guard found.digest == expected else {
          throw .corrupt(
            "what was restored differs from what was captured in \(shown(found.digest.differences(from: expected)))")
        }
        proofs = [
          "the SHA-256 of every file equals the captured one's (\(expected.parts.values.reduce(0) { $0 + $1.count }) entries)"
        ]
      }
      let copied = RestoredState(position: request.capture.position, sizeBytes: found.sizeBytes, proofs: proofs)
      state = try await goForward(request, from: copied, swap)
    }
    if !isComplete { try await pool.run { () throws(DriverError) -> Void in try swap.complete() } }
    return state
  }

  /// What a restore that goes along a log came to, for another try of it.
  private struct Note: Codable {
    var state: RestoredState
    var digest: ContentDigest
  }

  /// - Returns: `copied` where no log is to be followed.
  private func goForward(
    _ request: RestoreRequest, from copied: RestoredState, _ swap: PathSwap
  ) async throws(DriverError) -> RestoredState {
    guard let replay = request.replay else { return copied }
    let reached = try await goForward(
      replay, from: request.capture, place: swap.incomplete, spill: swap.workspace + "/log")
    let found = try await digest(of: swap.incomplete)
    let state = RestoredState(
      position: reached.position, sizeBytes: found.sizeBytes, proofs: copied.proofs + [reached.proof])
    let (path, note) = (swap.workspace + "/reached", Note(state: state, digest: found.digest))
    do {
      try await pool.run { () throws -> Void in try Files.replace(path, with: try CanonicalJSON.encode(note)) }
    } catch {
      throw DriverError(error)
    }
    return state
  }

  private func broughtForward(_ swap: PathSwap) async throws(DriverError) -> RestoredState {
    let path = swap.workspace + "/reached"
    let bytes: [UInt8]
    do { bytes = try await pool.run { () throws(SystemFailure) in try Files.read(path, limitBytes: 16 << 20) } } catch {
      throw DriverError(error)
    }
    guard let note = try? CanonicalJSON.decode(Note.self, from: bytes) else {
      throw .corrupt("\(path) is not what an earlier try wrote")
    }
    let found = try await digest(of: swap.beside).digest
    guard found == note.digest else {
      throw .corrupt("what was restored has changed since in \(shown(found.differences(from: note.digest)))")
    }
    return note.state
  }

  private func shown(_ names: [String]) -> String {
    let first = names.prefix(5).joined(separator: ", ")
    return names.count > 5 ? "\(first) and \(names.count - 5) more" : first
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let swap = swap(request)
    let place = try await pool.run { () throws(DriverError) -> String in
      try swap.isSwapped() ? swap.live : swap.beside
    }
    return try await digest(of: place).digest
  }

  /// Reads the whole tree at `place`; a cancellation is heard between two files.
  private func digest(of place: String) async throws(DriverError) -> (digest: ContentDigest, sizeBytes: Int64) {
    let tree = Tree(place, excludes: [])
    let entries = try await pool.run { () throws(DriverError) -> [TreeEntry] in try tree.list() }
    var lines: [TreePath: String] = [:]
    var size: Int64 = 0
    for entry in entries {
      if Task.isCancelled { throw .cancelled }
      let line = try await pool.run { () throws(DriverError) -> String in try tree.digestLine(of: entry) }
      lines[entry.path] = line
      size &+= entry.metadata.size
    }
    return (contentDigest(ofLines: lines), size)
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let swap = swap(request)
    try await pool.run { () throws(DriverError) -> Void in
      if try swap.isComplete() { try refuseWhileInUse(swap) }
      try swap.swapIn()
    }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let swap = swap(request)
    try await pool.run { () throws(DriverError) -> Void in
      if try swap.isSwapped() { try refuseWhileInUse(swap) }
      try swap.swapOut(isRecorded: request.isSwapRecorded)
    }
  }

  /// Whoever has a file of the tree open would go on writing to the state that leaves, unseen.
  private func refuseWhileInUse(_ swap: PathSwap) throws(DriverError) {
    let users = OpenFiles.users(below: swap.live)
    guard users.isEmpty else { throw .inUse(swap.live, by: users) }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let swap = swap(request)
    try await pool.run { () throws(DriverError) -> Void in try swap.discard() }
  }

  func start() async throws(DriverError) {}

  func stop() async throws(DriverError) {}
}

/// The name of the tree's directory in the captured tree; `nil` for what can't be one.
func capturedName(_ capture: CaptureResult) -> FileName? {
  capture.facts["directory"].flatMap { Hex.decode($0) }.flatMap { FileName(untrusted: $0) }
}
