import CShim
import Core
import DriverContract
import DriverKit
import Foundation
import Glibc
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverFiles

/// How many histories are tried: `SALVOR_TREE_LOGS`, and from which seed: `SALVOR_SEED`.
private func number(_ name: String, or usual: UInt64) -> UInt64 {
  ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) } ?? usual
}

@Suite("The log of a tree") struct TreeLogTests {
  @Test(.timeLimit(.minutes(60)))
  func `every mark of a random history comes back exactly`() async throws {
    let first = number("SALVOR_SEED", or: 1)
    for seed in first..<first + number("SALVOR_TREE_LOGS", or: 4) {
      do { try await TreeHistoryRun(seed).run() } catch {
        Issue.record("seed \(seed): \(error)")
      }
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `nobody who follows, no mark, and nobody is held up`() async throws {
    try await FollowedTree.with { tree in
      let session = try #require(try tree.driver().marking())
      let error = await #expect(throws: DriverError.self) { try await session.prepare() }
      #expect(error?.report.summary.contains("salvor follow") == true, "\(String(describing: error))")
      await session.close()
      // A copy can be had, and says that no log leads on from it.
      let captured = try await tree.capture()
      #expect(captured.result.position.kind == "listing")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `callers beyond those who are heard wait, and keep nobody awake`() throws {
    let scratch = try TemporaryDirectory("callers")
    let listener = try MarkListener(in: scratch.path)
    let place = try File(scratch.path, O_RDONLY | O_DIRECTORY)
    var callers: [TimedSocket<MarkFailure>] = []
    for _ in 0...MarkListener.limit {
      callers.append(
        try TimedSocket.connect(host: MarkListener.address(in: place), port: 0, patience: .seconds(60)))
      listener.listen()
    }
    #expect(!listener.wait(atMost: .milliseconds(50)), "the last one is heard once somebody leaves")
    callers.removeFirst()
    #expect(listener.wait(atMost: .seconds(60)))
    // Whoever left is noticed first, and whoever waited is taken then.
    listener.listen()
    listener.listen()
    #expect(!listener.wait(atMost: .milliseconds(50)), "all of them are heard")
    try callers[63].send([1], patience: .seconds(60))
    #expect(listener.wait(atMost: .seconds(60)), "the last one asks")
    listener.close()
  }

  @Test(.timeLimit(.minutes(10)))
  func `notes that don't lead to the log's end let it begin anew, with a reason`() async throws {
    try await FollowedTree.with { tree in
      let log = MemoryTreeLog()
      try await tree.following(into: log) { try await tree.settle(log) }
      try Files.removeTree(tree.notes + "/seen")
      try await tree.following(into: log) { try await tree.settle(log) }
      #expect(log.beginnings.count == 2)
      #expect(log.beginnings.last?.why?.contains("doesn't lead") == true)
      // And notes that were cut off, as by a power cut.
      try await tree.following(into: log) {
        for number in 1...5 { try tree.put("late-\(number)", [1, 2, 3]) }
        try await tree.settle(log)
      }
      #expect(log.beginnings.count == 2)
      let notes = try Files.read(tree.notes + "/seen")
      try Files.replace(tree.notes + "/seen", with: Array(notes.dropLast(300)))
      try await tree.following(into: log) { try await tree.settle(log) }
      #expect(log.beginnings.count == 3)
    }
  }

  /// A directory that was just made is looked at, and watched a moment later: what is put into it between has no event.
  @Test(.timeLimit(.minutes(10)))
  func `a directory has the time of what was put into it before it was watched`() async throws {
    try await FollowedTree.with { tree in
      let log = MemoryTreeLog()
      try await tree.following(into: log) {
        let base = try await tree.capture()
        for number in 0..<600 {
          try Files.createDirectory("\(tree.root)/d\(number)")
          usleep(UInt32.random(in: 4000...9000))
          try tree.put("d\(number)/a", [1])
        }
        let (place, state) = try await tree.mark { try tree.state() }
        try await tree.expect(state, from: base, log, to: place, "directories")
      }
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `more events than the kernel keeps: the tree is looked at as a whole`() async throws {
    try await FollowedTree.with { tree in
      let log = MemoryTreeLog()
      try await tree.following(into: log) {
        let base = try await tree.capture()
        log.isFull = true
        // Two in turn, for the kernel makes one event of two that are alike.
        try tree.put("a", [1])
        try tree.put("b", [2])
        for _ in 0..<20_000 { for name in ["a", "b"] { utimensat(AT_FDCWD, "\(tree.root)/\(name)", nil, 0) } }
        try tree.put("late", [3])
        unlink(tree.root + "/records/readme")
        log.isFull = false
        try await tree.settle(log)
        try await tree.expect(tree.state(), from: base, log, to: nil)
      }
    }
  }

  /// The repository proves its bytes; this is about one that lies.
  @Test(.timeLimit(.minutes(10))) func `a damaged log is refused, or harms nothing but the copy`() async throws {
    try await FollowedTree.with { tree in
      let log = MemoryTreeLog()
      var base: (tree: MemoryTree, result: CaptureResult)?
      var state = ""
      try await tree.following(into: log) {
        base = try await tree.capture()
        try tree.put("a", Array("one".utf8))
        try tree.put("b", Array("two".utf8))
        unlink(tree.root + "/records/readme")
        try await tree.settle(log)
        state = try tree.state()
      }
      let captured = try #require(base)
      let size = log.size
      for at in 0..<size where at % 5 == 0 || at < 100 {
        let damaged = log.damaged(at: at)
        var request = RestoreRequest(id: "d\(at)", source: captured.tree, capture: captured.result)
        request.replay = LogReplay(source: damaged, target: .newest)
        let driver = try tree.driver()
        do throws(DriverError) {
          _ = try await driver.restoreBeside(request)
        } catch {
          switch error {
          case .corrupt, .logGap, .system, .unsupported, .permissionDenied: break
          default: Issue.record("byte \(at): \(error)")
          }
        }
        try await driver.discardKept(request)
      }
      let left = try Files.names(in: tree.directory.path).map(\.lossyText).filter { $0.hasPrefix(".salvor") }
      #expect(left.isEmpty, "\(left)")
      #expect(try tree.state() == state)
    }
  }
}

/// A tree with a lock, whose changes are followed in this process.
final class FollowedTree: Sendable {
  let directory: TemporaryDirectory
  var root: String { directory.file("documents") }
  var notes: String { directory.file("notes") }

  private init() throws {
    directory = try TemporaryDirectory("tree-log")
    try Files.createDirectory(root + "/records")
    try Files.replace(root + "/.lock", with: [])
    try Files.replace(root + "/records/readme", with: Array("plain\ntext".utf8), mode: 0o640)
  }

  static func with(_ body: (FollowedTree) async throws -> Void) async throws { try await body(try FollowedTree()) }

  func driver() throws -> any DataStoreDriver {
    try FilesDriverFactory.make(
      StoreConfiguration(
        name: "documents", options: ["path": .string(root), "lockFile": ".lock", "log": .string(notes)]), in: .live)
  }

  /// Runs `body` while the tree is followed; then the follower is ended as a kill would.
  func following(into log: MemoryTreeLog, _ body: @escaping () async throws -> Void) async throws {
    var notesAreShort = try driver().follower() as? FilesFollower
    // So that they are begun anew again and again.
    notesAreShort?.longNotes = -1_000_000
    notesAreShort?.sign = .milliseconds(10)
    let follower = notesAreShort
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        do throws(DriverError) { try await follower?.follow(from: log.end, hint: nil, into: log) } catch {
          guard case .cancelled = error else { throw error }
        }
      }
      try await Self.until { FileManager.default.fileExists(atPath: self.notes + "/socket") }
      try await body()
      group.cancelAll()
      try await group.waitForAll()
    }
    #expect(!FileManager.default.fileExists(atPath: notes + "/socket"))
  }

  static func until(_ isSo: () -> Bool) async throws {
    for _ in 0..<6000 {
      if isSo() { return }
      try await Task.sleep(for: .milliseconds(10))
    }
    Issue.record("nobody follows")
  }

  /// All that was done before is in the log.
  func settle(_ log: MemoryTreeLog) async throws {
    let session = try #require(try driver().marking())
    try await session.prepare()
    let position = try await session.mark()
    await session.close()
    #expect(log.end?.position == position)
  }

  func mark<T>(_ body: () throws -> T) async throws -> (LogPosition, T) {
    let session = try #require(try driver().marking())
    try await session.prepare()
    try await session.hold(limit: .seconds(60))
    let position = try await session.mark()
    let result = try body()
    let wasHeld = await session.release()
    await session.close()
    #expect(wasHeld)
    return (position, result)
  }

  func capture() async throws -> (tree: MemoryTree, result: CaptureResult) {
    let scratch = try TemporaryDirectory("scratch")
    let tree = MemoryTree()
    let session = try await driver().capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      try await session.prepare()
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      _ = await session.release()
      let result = try await session.finish()
      await session.close()
      return (tree, result)
    } catch {
      await session.close()
      throw error
    }
  }

  func put(_ path: String, _ bytes: [UInt8]) throws {
    try Files.createDirectory(Files.parent(of: "\(root)/\(path)"))
    let file = try File("\(root)/\(path)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
    try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw) }
  }

  func state() throws -> String { try Self.state(of: root) }

  /// Every entry with all that a restore brings back.
  static func state(of root: String) throws -> String {
    let tree = Tree(root, excludes: [])
    return try tree.list().map { entry in
      let metadata = entry.metadata
      let attributes = metadata.extendedAttributes.map { "\($0.name)=\(Hex.encode($0.value))" }.joined(separator: ",")
      let links = metadata.kind == .regular ? "\(metadata.links)" : ""
      return "\(entry.path) \(try tree.digestLine(of: entry)) \(metadata.modified.nanoseconds) \(links) \(attributes)"
    }.joined(separator: "\n")
  }

  /// Restores the copy and goes along the log to `position`, or its end.
  func expect(
    _ expected: String, from base: (tree: MemoryTree, result: CaptureResult), _ log: MemoryTreeLog,
    to position: LogPosition?, _ what: String = ""
  ) async throws {
    let driver = try driver()
    var request = RestoreRequest(id: "again", source: base.tree, capture: base.result)
    request.replay = LogReplay(source: log.lent(from: base.result.position, to: position), target: .newest)
    let state = try await driver.restoreBeside(request)
    let place = request.workspace(beside: root) + "/beside"
    let found = try Self.state(of: place)
    if found != expected {
      let (a, b) = (Set(found.split(separator: "\n")), Set(expected.split(separator: "\n")))
      throw ContractBroken(
        "\(what) \(String(describing: position)): restored but not there: \(a.subtracting(b).sorted().prefix(5)); "
          + "there but not restored: \(b.subtracting(a).sorted().prefix(5))")
    }
    #expect(state.position == position ?? state.position)
    #expect(try await driver.restoreBeside(request) == state, "again is the same")
    try await driver.discardKept(request)
  }
}

/// One random history of a tree: changes, marks, followers that end and lose what was not durable yet.
private struct TreeHistoryRun {
  let chance: SeededRandomness
  private static let names = ["a", "b", "c", "d", "e \u{e9}", "f"]

  init(_ seed: UInt64) { chance = SeededRandomness(seed: seed) }

  func run() async throws {
    try await FollowedTree.with { tree in
      let log = MemoryTreeLog()
      var base: (tree: MemoryTree, result: CaptureResult)?
      var marks: [(LogPosition, String)] = []
      for round in 1...4 {
        try await tree.following(into: log) {
          if base == nil { base = try await tree.capture() }
          for _ in 1...12 {
            for _ in 0...chance.below(6) { try change(tree) }
            marks.append(try await tree.mark { try tree.state() })
            if marks.count > 7 { log.settled = marks[marks.count - 7].0 }
          }
          for _ in 0...chance.below(20) { try change(tree) }
        }
        // A machine's memory is lost with what was not in the repository yet.
        if round % 2 == 0, let kept = marks.indices.randomElement(using: chance) {
          log.forget(after: marks[max(kept, marks.count - 6)].0, chance: chance)
          marks.removeAll { mark in log.end.map { ChangePlace($0.cursor)! < ChangePlace(mark.0)! } ?? true }
        }
        for _ in 0...chance.below(10) { try change(tree) }
      }
      guard let base else { return }
      #expect(log.beginnings.count == 1, "\(log.beginnings)")
      for (index, mark) in marks.enumerated() where index == marks.count - 1 || chance.below(4) == 0 {
        try await tree.expect(mark.1, from: base, log, to: mark.0, "mark \(index)")
      }
    }
  }

  private func path(_ depth: Int = 2) -> String {
    (0...chance.below(depth + 1)).map { _ in Self.names[chance.below(Self.names.count)] }.joined(separator: "/")
  }

  private func content() -> [UInt8] {
    let size = chance.below(12) == 0 ? 1_000_000 + chance.below(3_000_000) : chance.below(3000)
    return [UInt8](repeating: UInt8(truncatingIfNeeded: chance.next()), count: size)
  }

  /// One change under the lock, as a writer makes it; most that can't be made are tried all the same.
  private func change(_ tree: FollowedTree) throws {
    let lock = try File(tree.root + "/.lock", O_RDONLY)
    guard retryingInterrupts({ flock(lock.descriptor, LOCK_SH) }) == 0 else { throw SystemFailure("flock") }
    defer { withExtendedLifetime(lock) {} }
    let (a, b) = ("\(tree.root)/\(path())", "\(tree.root)/\(path())")
    switch chance.below(16) {
    case 0...3:
      try? Files.createDirectory(Files.parent(of: a))
      if let file = try? File(a, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: 0o644) {
        try write(content(), file, at: 0)
      }
    case 4, 5:
      if let file = try? File(a, O_WRONLY | O_NOFOLLOW) {
        try write(content(), file, at: Int64(try file.status().st_size))
      }
    case 6:
      if let file = try? File(a, O_WRONLY | O_NOFOLLOW) { try write([1, 2, 3], file, at: Int64(chance.below(100))) }
    case 7:
      if let file = try? File(a, O_WRONLY | O_NOFOLLOW) { try file.truncate(to: Int64(chance.below(2000))) }
    case 8, 9: rename(a, b)
    case 10: try? Files.removeTree(a)
    case 11: try? Files.createDirectory(a, mode: chance.below(2) == 0 ? 0o755 : 0o700)
    // To nothing there is: what opens it for writing must not reach anything else.
    case 12: symlink("/nowhere/\(chance.below(9))", a)
    case 13: link(a, b)
    case 14:
      if let file = try? File(a, O_RDONLY | O_NOFOLLOW | O_NONBLOCK), !Files.isDirectory(a) {
        fchmod(file.descriptor, chance.below(2) == 0 ? 0o600 : 0o664)
      }
    default:
      let value = [UInt8](repeating: 65, count: 1 + chance.below(5))
      if !value.isEmpty { _ = salvor_lsetxattr(a, "user.note", value, value.count) }
    }
  }

  private func write(_ bytes: [UInt8], _ file: File, at offset: Int64) throws {
    try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: offset) }
  }
}

extension Range<Int> {
  fileprivate func randomElement(using chance: SeededRandomness) -> Int? {
    isEmpty ? nil : lowerBound + chance.below(count)
  }
}

/// A log in memory.
final class MemoryTreeLog: LogSink, LogSource {
  private struct State {
    var chunks: [LogChunk] = []
    var beginnings: [LogBeginning] = []
    var isFull = false
    var settled: LogPosition?
  }
  private let state = Mutex(State())

  var isFull: Bool {
    get { state.withLock { $0.isFull } }
    set { state.withLock { $0.isFull = newValue } }
  }
  var hasRoom: Bool { !isFull }
  let gathering: Duration = .milliseconds(5)
  /// What no loss of a machine takes away.
  var settled: LogPosition? {
    get { state.withLock { $0.settled } }
    set { state.withLock { $0.settled = newValue } }
  }
  var durable: LogPosition? { settled }
  var beginnings: [LogBeginning] { state.withLock { $0.beginnings } }
  var size: Int { state.withLock { $0.chunks.reduce(0) { $0 + $1.bytes.count } } }

  var end: LogEnd? {
    state.withLock { state in
      state.chunks.last.map {
        LogEnd(
          stream: "changes", cursor: LogCursor($0.file, $0.offset + Int64($0.bytes.count)), position: $0.mark.position)
      }
    }
  }

  func begin(_ beginning: LogBeginning) {
    state.withLock {
      $0.beginnings.append(beginning)
      $0.chunks = []
    }
  }

  func append(_ chunk: LogChunk) throws(DriverError) {
    let isRight = state.withLock { state -> Bool in
      if let last = state.chunks.last {
        let end = LogCursor(last.file, last.offset + Int64(last.bytes.count))
        guard chunk.file == last.file ? chunk.offset == end.offset && chunk.follows == nil : chunk.follows == end else {
          return false
        }
      }
      state.chunks.append(chunk)
      return true
    }
    guard isRight else { throw .logGap("\(chunk.file)+\(chunk.offset) doesn't go on") }
  }

  func attach(_ name: String, _ bytes: [UInt8]) {}
  func note(_ mark: LogMark) {}

  /// Drops some chunks behind a position, as what was not durable goes with a machine.
  func forget(after position: LogPosition, chance: SeededRandomness) {
    state.withLock { state in
      guard let place = ChangePlace(position) else { return }
      let first = state.chunks.firstIndex { ChangePlace(LogCursor($0.file, $0.offset))! >= place } ?? state.chunks.count
      let kept = first + chance.below(state.chunks.count - first + 1)
      state.chunks.removeLast(state.chunks.count - kept)
    }
  }

  // MARK: Lending

  func lent(from: LogPosition, to: LogPosition?) -> MemoryTreeLog {
    let result = MemoryTreeLog()
    let chunks = state.withLock { $0.chunks }
    let end = to.flatMap { ChangePlace($0) }
    result.state.withLock { state in
      state.chunks = chunks.compactMap { chunk in
        guard let end else { return chunk }
        var chunk = chunk
        let at = ChangePlace(LogCursor(chunk.file, chunk.offset))!
        guard at < end else { return nil }
        if at.number == end.number { chunk.bytes = Array(chunk.bytes.prefix(Int(end.offset - at.offset))) }
        return chunk
      }
    }
    return result
  }

  func damaged(at place: Int) -> MemoryTreeLog {
    let result = MemoryTreeLog()
    var chunks = state.withLock { $0.chunks }
    var left = place
    for index in chunks.indices {
      if left < chunks[index].bytes.count {
        chunks[index].bytes[left] ^= 0x41
        break
      }
      left -= chunks[index].bytes.count
    }
    let changed = chunks
    result.state.withLock { $0.chunks = changed }
    return result
  }

  func extents() -> [LogExtent] {
    state.withLock { state in
      var result: [LogExtent] = []
      for chunk in state.chunks {
        let end = chunk.offset + Int64(chunk.bytes.count)
        if let last = result.last, last.file == chunk.file {
          result[result.count - 1].to = end
        } else {
          result.append(LogExtent(chunk.file, from: chunk.offset, to: end, follows: chunk.follows))
        }
      }
      return result
    }
  }

  func attachments() -> [String] { [] }

  func read(
    _ extent: LogExtent, _ each: @escaping @Sendable (_ offset: Int64, _ bytes: [UInt8]) async throws -> Void
  ) async throws(AnyFailure) {
    let chunks = state.withLock { $0.chunks.filter { $0.file == extent.file } }
    do { for chunk in chunks { try await each(chunk.offset, chunk.bytes) } } catch { throw AnyFailure(error) }
  }

  func attachment(_ name: String, limitBytes: Int) throws(AnyFailure) -> [UInt8] {
    throw AnyFailure(SystemFailure("open", path: name, number: ENOENT))
  }
}
