import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A Ceph cluster with its S3 gateway, on loopback: started once for all tests of a process, ended with it.
package final class CephServer: Sendable {
  package let port: UInt16
  package static let accessKey = "test-access"
  package static let secretKey = "test-secret"
  /// Of a user `limited`, who may do what a bucket's policy says.
  package static let limitedAccessKey = "limited-access"
  package static let limitedSecretKey = "limited-secret"
  /// Held for as long as the process lives: the cluster ends when nobody holds it.
  private let holding: File

  package static func shared() async throws -> CephServer { try await Once.shared.server() }

  private actor Once {
    static let shared = Once()
    private var starting: Task<CephServer, any Error>?

    func server() async throws -> CephServer {
      let task = starting ?? Task { try await BlockingPool.shared.run { try CephServer() } }
      starting = task
      return try await task.value
    }
  }

  private init() throws {
    port = try freePort()
    let script = Files.parent(of: Files.parent(of: Files.parent(of: #filePath))) + "/scripts/ceph-cluster"
    var template = Array("/tmp/salvor-ceph-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemFailure("mkdtemp") }
    let directory = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    var ends: [CInt] = [-1, -1]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw SystemFailure("socketpair")
    }
    holding = File(adopting: ends[0], path: script)
    let log = directory + ".log"
    defer { unlink(log) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[1], 0)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    // A group of its own: an interrupt of the tests must leave it the time to clean up.
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP))
    let words: [String] = [script, directory, "\(port)"]
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    defer { for text in arguments { free(text) } }
    var pid: pid_t = 0
    let failure = posix_spawn(&pid, script, &actions, &attributes, &arguments, environ)
    close(ends[1])
    guard failure == 0 else { throw SystemFailure("spawn", path: script, number: failure) }
    var answer = [UInt8](repeating: 0, count: 16)
    let count = try answer.withMutableRawBytes { (raw) throws(SystemFailure) in try holding.read(into: raw) }
    guard answer.prefix(max(0, count)).starts(with: Array("ready".utf8)) else {
      let said = (try? Files.read(log)).map { String(decoding: $0, as: UTF8.self) } ?? ""
      throw CommandRun.Failed(description: "Ceph did not start: \(said)")
    }
  }
}
