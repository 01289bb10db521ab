import Glibc
import IO

/// A directory that is removed with everything in it.
final class TemporaryDirectory: Sendable {
  let path: String

  init(_ name: String) throws {
    var template = Array("/tmp/salvor-\(name)-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemFailure("mkdtemp", path: "/tmp") }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    // Servers that refuse root run as someone else and must be able to pass.
    chmod(path, 0o755)
  }

  deinit { try? Files.removeTree(path) }
}
