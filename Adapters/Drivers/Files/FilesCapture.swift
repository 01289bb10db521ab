import Core
import DriverKit
import Glibc
import IO
import Synchronization

/// One capture of a tree.
///
/// With a lock file: hold takes it exclusively, the mark lists the tree under it, and the copy after the release must find
/// every listed file as it was listed, or longer: then the listed part is stored. What came since is left out. Without
/// one there is no mark to keep; the tree is copied as it is found, and what changed meanwhile is told.
actor FilesCapture: CaptureSession {
  private let driver: FilesDriver
  private let context: CaptureContext
  private let tree: Tree
  private let keeper = HoldKeeper()
  private var lock: File?
  private var listing: [TreeEntry]?
  private var position: LogPosition?

  private var pool: BlockingPool { driver.environment.pool }

  init(_ driver: FilesDriver, _ context: CaptureContext) {
    (self.driver, self.context) = (driver, context)
    tree = Tree(driver.path, excludes: driver.excludes)
  }

  /// Whether anyone was to wait. If not, a listing would promise what no file has to keep.
  private var isHold = false

  func prepare() async throws(DriverError) {
    let (path, lockFile) = (driver.path, driver.lockFile)
    lock = try await pool.run { () throws(DriverError) -> File? in
      guard Files.isDirectory(path) else { throw .unreachable("\(path): it is not a directory") }
      guard let lockFile else { return nil }
      do throws(SystemFailure) { return try File(lockFile, O_RDONLY | O_NONBLOCK) } catch {
        // Not made here: a lock that no writer has ever taken holds nobody.
        throw .holdImpossible("the lock file \(lockFile) can't be opened: \(error.message.lowercased())")
      }
    }
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard driver.lockFile != nil else { return }
    guard let lock else { throw .holdImpossible("the capture was not prepared") }
    isHold = true
    try await keeper.holdLock(lock, limit: limit)
  }

  func mark() async throws(DriverError) -> LogPosition {
    if driver.lockFile == nil || !isHold, !driver.isImmutable {
      // Others may be held just now: nothing that takes time.
      let now = LogPosition(kind: "time", value: driver.environment.time.now().description)
      position = now
      return now
    }
    let found = try await list()
    // While nobody follows, no log will lead on from here.
    guard isHold, let log = driver.log else { return found }
    do throws(DriverError) {
      let followed = try await pool.run { () throws(DriverError) -> LogPosition in try MarkCaller(log).ask() }
      position = followed
      return followed
    } catch {
      guard case .holdImpossible = error else { throw error }
      return found
    }
  }

  private func list() async throws(DriverError) -> LogPosition {
    let tree = tree
    let entries = try await pool.run { () throws(DriverError) -> [TreeEntry] in try tree.list() }
    let found = listingPosition(entries)
    (listing, position) = (entries, found)
    return found
  }

  func release() async -> Bool { driver.lockFile == nil || !isHold ? true : await keeper.release() }

  func finish() async throws(DriverError) -> CaptureResult {
    guard position != nil else { throw .holdImpossible("there is no mark to copy at") }
    let isListed = listing != nil
    if !isListed { _ = try await list() }
    guard let entries = listing, let position else { throw .holdImpossible("there is no mark to copy at") }
    let name = FileName(Files.last(of: driver.path))
    let copying = Copying(
      tree: tree, entries: entries, isListed: isListed, under: name, context: context, pool: pool)
    try await copying.run()
    let (lines, size, notes) = copying.outcome
    return CaptureResult(
      version: "", position: position, contentDigest: contentDigest(ofLines: lines), sizeBytes: size,
      facts: ["directory": Hex.encode(name.bytes), "entries": "\(lines.count)"], notes: notes)
  }

  func close() async {
    _ = await keeper.release()
    lock = nil
    listing = nil
  }
}

/// The digest of a listing: path, kind, size, times and inode of every entry.
func listingPosition(_ entries: [TreeEntry]) -> LogPosition {
  var digest = RunningDigest()
  for entry in entries {
    let metadata = entry.metadata
    digest.update(entry.path.bytes(below: "") + [0])
    // A directory's own times move with files that are excluded or not in the cut.
    let isDirectory = metadata.kind == .directory
    digest.update(
      "\(digestText(metadata, content: nil)) \(metadata.size) \(metadata.device):\(metadata.inode) "
        + (isDirectory ? "\n" : "\(metadata.modified.nanoseconds) \(metadata.changed.nanoseconds)\n"))
  }
  return LogPosition(kind: "listing", value: digest.finish().hex, details: ["entries": "\(entries.count)"])
}
