import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension FailoverRoom {
  /// What the programs on a host believe of their machine.
  package struct Told: Sendable, Equatable {
    package var clockOffsetNanoseconds: Int64 = 0
    package var syncDelayMicroseconds: Int64 = 0
  }

  static func toldFile(_ host: RigHost) -> String { host.directory + "/told" }

  /// Changes what a host's programs believe; those its agent started itself believe nothing of it.
  ///
  /// - Throws: If what tells them isn't built: a fault that does nothing would pass for one that was survived.
  package func tell(_ name: String, _ change: (inout Told) -> Void) throws(SystemFailure) {
    guard Self.shim(beside: options.program) != nil else {
      throw SystemFailure("open", path: Files.parent(of: options.program) + "/libRigShim.so", number: ENOENT)
    }
    let path = Self.toldFile(network[name])
    let descriptor = open(path, O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else { throw SystemFailure("open", path: path) }
    defer { Glibc.close(descriptor) }
    var words: [Int64] = [0, 0]
    pread(descriptor, &words, 16, 0)
    var told = Told(clockOffsetNanoseconds: words[0], syncDelayMicroseconds: words[1])
    change(&told)
    words = [told.clockOffsetNanoseconds, told.syncDelayMicroseconds]
    pwrite(descriptor, words, 16, 0)
  }

  /// Built beside this program; `nil` if it isn't, and then nobody can be told anything.
  static func shim(beside program: String) -> String? {
    let path = Files.parent(of: program) + "/libRigShim.so"
    return Files.exists(path) ? path : nil
  }

  /// Leaves no room on a member's disk.
  package func fillDisk(on name: String) throws {
    let disk = network[name].directory + "/disk"
    let file = try File(disk + "/ballast", O_WRONLY | O_CREAT | O_TRUNC)
    let free = try Files.freeBytes(at: disk)
    if free > 0 { _ = posix_fallocate(file.descriptor, 0, off_t(free)) }
  }

  package func emptyDisk(on name: String) { unlink(network[name].directory + "/disk/ballast") }

  package func isRunning(_ program: String, on name: String) -> Bool {
    network.processes(on: name).contains { $0.program == program }
  }

  /// As a supervisor would; PostgreSQL is its agent's.
  func startAgain(_ program: RoomFault.Program, on name: String) throws {
    if isRunning(program.rawValue, on: name) { return }
    switch program {
    case .postgres: break
    case .agent: try startAgent(name)
    case .haproxy: try startProxy()
    case .etcd: try startEtcd()
    }
  }

  /// Who takes writes, as its own server says.
  var servingPrimary: String? {
    let found = Self.members.filter { name in
      isPrimary(name)
        && (try? FailoverRig.ask(
          "SELECT 1", at: "host=\(network[name].address) port=5432", from: network[name], within: .seconds(1))) != nil
    }
    return found.first
  }

  func agentLogBytes(_ name: String) -> Int {
    var status = stat()
    return stat(network[name].directory + "/agent.log", &status) == 0 ? Int(status.st_size) : 0
  }

  func agentLogTail(_ name: String, from offset: Int) -> String {
    let bytes = (try? Files.read(network[name].directory + "/agent.log")) ?? []
    return String(decoding: bytes.dropFirst(offset), as: UTF8.self)
  }

  /// Data directories go, words stay.
  func keepLogsOnly() {
    network.close(keepingFiles: true)
    for host in network.hosts {
      umount2(host.directory + "/disk", Int32(MNT_DETACH))
      try? Files.removeTree(host.directory + "/disk")
      try? Files.removeTree(host.directory + "/data")
    }
  }
}
