import Core
import DriverKit
import Glibc
import IO

extension NATSDriver {
  /// Gives everything to the sink, as a server's own directory.
  func send(
    _ account: String, _ description: Description, to context: CaptureContext, _ interruption: Interruption
  ) async throws(DriverError) -> Int64 {
    @discardableResult
    func add(
      _ path: TreePath, _ metadata: FileMetadata, content: OpenSource? = nil
    ) async throws(DriverError) -> Int64 {
      do throws(AnyFailure) {
        return try await context.sink.add(path, metadata, cutting: .content, content: content).size
      } catch {
        throw interruption.isSet || error.isCancellation ? .cancelled : .sink(error)
      }
    }
    let place = TreePath("jetstream").appending(FileName(description.account))
    let entries = try await environment.pool.run { () throws(DriverError) -> [TreeEntry] in
      do throws(SystemFailure) { return try TreeReader.scan(account) } catch { throw DriverError(error) }
    }
    let bytes: [UInt8]
    do { bytes = try CanonicalJSON.encode(description) } catch { throw DriverError(error) }
    let now = environment.time.now()
    try await add(
      Description.name,
      FileMetadata(kind: .regular, permissions: 0o600, size: Int64(bytes.count), modified: now)
    ) { MemorySource(bytes) }
    for path in [TreePath("jetstream"), place] {
      try await add(path, FileMetadata(kind: .directory, permissions: 0o700, modified: now))
    }
    var size = Int64(bytes.count)
    for entry in entries where entry.path.components.first == "streams" {
      let isFile = entry.metadata.kind == .regular
      guard isFile || entry.metadata.kind == .directory else { continue }
      let path = "\(account)/\(entry.path)"
      let open: OpenSource = { try File(path, O_RDONLY | O_NOFOLLOW) }
      size += try await add(place.appending(entry.path), entry.metadata, content: isFile ? open : nil)
    }
    return size
  }
}
