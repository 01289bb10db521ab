import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// One conversation from `capture.prepare` to `capture.finish`. The program puts its files into a directory; they go into
/// the sink from there, and never through JSON.
actor ExecCapture: CaptureSession {
  private let driver: ExecDriver
  private let context: CaptureContext
  private var program: Program?
  private var tree: String { context.scratch + "/tree" }
  private var copiedBytes: Int64 = 0
  /// Since when, and for how long; `nil` while nobody waits.
  private var held: (since: Int64, limit: Duration)?

  /// A program that takes longer to answer than the hold may last is ended; so much for the way there and back.
  private static let grace = Duration.seconds(1)
  /// Facts and notes go into the repository's metadata.
  private static let factsLimit = 1 << 20

  init(_ driver: ExecDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private func running() throws(DriverError) -> Program {
    guard let program else { throw .holdImpossible("the session is not prepared") }
    return program
  }

  func prepare() async throws(DriverError) {
    let program = try await driver.open().program
    self.program = program
    let tree = tree
    try await driver.environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) { try Files.createDirectory(tree, mode: 0o700) } catch { throw DriverError(error) }
    }
    let fields: [String: JSONValue] = ["directory": .string(tree), "contentDigest": .bool(context.wantsContentDigest)]
    _ = try await program.call(
      "capture.prepare", fields, as: Program.Nothing.self, within: driver.timeout, progress: context.progress)
  }

  func hold(limit: Duration) async throws(DriverError) {
    let time = driver.environment.time
    let since = time.monotonicNanoseconds()
    let milliseconds = max(1, limit.wholeNanoseconds / 1_000_000)
    let program = try running()
    do throws(DriverError) {
      _ = try await program.call(
        "capture.hold", ["limitMilliseconds": .integer(milliseconds)], as: Program.Nothing.self,
        within: limit + Self.grace, holdLimit: limit)
    } catch {
      // Whatever it holds after an error, it holds no longer.
      switch error {
      case .holdTimeout, .holdImpossible: break
      default: await program.close()
      }
      if time.monotonicNanoseconds() - since > limit.wholeNanoseconds, case .engineFailed = error {
        throw .holdTimeout(limit)
      }
      throw error
    }
    held = (since, limit)
    if isOver { throw .holdTimeout(limit) }
  }

  private var isOver: Bool {
    guard let held else { return true }
    return driver.environment.time.monotonicNanoseconds() - held.since > held.limit.wholeNanoseconds
  }

  func mark() async throws(DriverError) -> LogPosition {
    try await running().call("capture.mark", as: Wire.Marked.self, within: ExecDriver.shortly).position.position
  }

  func release() async -> Bool {
    guard let program, held != nil else { return false }
    let wasInTime = !isOver
    held = nil
    // Asked even if this task is cancelled: nobody may be left waiting.
    do throws(DriverError) {
      let answer = try await program.call("capture.release", as: Wire.Released.self, within: .seconds(10))
      return answer.held && wasInTime
    } catch {
      await program.close()
      return false
    }
  }

  func finish() async throws(DriverError) -> CaptureResult {
    let finished = try await running().call(
      "capture.finish", as: Wire.Finished.self, within: driver.timeout, progress: context.progress)
    let facts = finished.facts ?? [:]
    let notes = finished.notes ?? []
    let bytes =
      facts.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count } + notes.reduce(0) { $0 + $1.utf8.count }
    guard bytes <= Self.factsLimit else {
      throw .engineFailed("the program's facts and notes are \(bytes) bytes, more than \(Self.factsLimit)", log: "")
    }
    copiedBytes = 0
    let tree = tree
    try await copy(tree, to: TreePath())
    guard copiedBytes > 0 || hasEntries else {
      throw .engineFailed("the program put nothing into \(tree)", log: "")
    }
    return CaptureResult(
      version: finished.version ?? "", position: finished.position.position,
      contentDigest: context.wantsContentDigest ? finished.contentDigest?.digest : nil, sizeBytes: copiedBytes,
      facts: facts, notes: notes)
  }

  private var hasEntries = false

  /// Moves what the program left in a directory into the sink, and removes each file when it is there.
  private func copy(_ path: String, to target: TreePath) async throws(DriverError) {
    if Task.isCancelled { throw .cancelled }
    let (reader, own, entries) = try await blocking { () throws(SystemFailure) in
      let reader = try DirectoryReader(path)
      var entries: [(FileName, FileMetadata)] = []
      for name in try reader.names() { entries.append((name, try reader.metadata(of: name))) }
      return (reader, try reader.metadata(), entries)
    }
    try await add(target, own, nil)
    for (name, metadata) in entries {
      hasEntries = true
      let place = target.appending(name)
      let shown = "\(path)/\(name.lossyText)"
      switch metadata.kind {
      case .directory:
        guard let text = String(validating: name.bytes, as: UTF8.self) else {
          throw .unsupported("the program made a directory whose name is no UTF-8: \(shown)")
        }
        try await copy("\(path)/\(text)", to: place)
      case .regular:
        try await add(place, metadata) { FileSource(try reader.open(name).file) }
      case .symbolicLink: try await add(place, metadata, nil)
      default: throw .unsupported("the program made something that is neither file, directory nor link: \(shown)")
      }
    }
  }

  private func blocking<T: Sendable>(
    _ body: @escaping @Sendable () throws(SystemFailure) -> T
  ) async throws(DriverError) -> T {
    do throws(SystemFailure) { return try await driver.environment.pool.run(body) } catch { throw DriverError(error) }
  }

  private func add(_ path: TreePath, _ metadata: FileMetadata, _ content: OpenSource?) async throws(DriverError) {
    do throws(AnyFailure) {
      copiedBytes += try await context.sink.add(path, metadata, cutting: .content, content: content).size
    } catch {
      if let inner = error.underlying as? DriverError { throw inner }
      throw error.isCancellation ? .cancelled : .sink(error)
    }
    context.progress(copiedBytes)
  }

  func close() async {
    held = nil
    await program?.close()
    program = nil
    let tree = tree
    await driver.environment.pool.run { try? Files.removeTree(tree) }
  }
}

/// A file from its beginning to its end. Calls block.
private final class FileSource: ByteSource {
  private let file: File
  init(_ file: File) { self.file = file }
  func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int { try file.read(into: buffer) }
}
