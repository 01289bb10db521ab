import Core
import IO
import Vault

#if canImport(Glibc)
  import Glibc
#endif

extension LocalObjectStore {
  /// In one step: until the new content is durable under another name, the old one stays.
  package func replace(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await pool.run { [self] () throws(StoreError) in
      let file = try beginFile(name)
      // Gone after the rename; nobody else has that name.
      defer { unlink(file.path) }
      do throws(SystemFailure) {
        try bytes.withRawBytes { (raw) throws(SystemFailure) in try file.write(raw) }
        try file.synchronize()
        guard rename(file.path, path(name)) == 0 else { throw SystemFailure("rename", path: path(name)) }
        try Files.synchronizeDirectory(Files.parent(of: path(name)))
      } catch { throw StoreError(error) }
    }
  }
}
