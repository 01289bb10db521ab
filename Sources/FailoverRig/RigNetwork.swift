import CRig
import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// One machine of a room: a network namespace with an address, and a directory.
package struct RigHost: Sendable {
  package let name: String
  package let address: String
  package let directory: String
  let index: Int
  let space: Int32
  /// Of its namespace.
  let number: UInt64

  /// The calling thread's sockets are this host's from here on.
  package func enter() throws(SystemFailure) {
    let failure = rig_enter(space)
    guard failure == 0 else { throw SystemFailure("setns", path: name, number: failure) }
  }
}

/// Hosts on one network of our own, and the processes on them.
///
/// Needs to be root, and leaves nothing behind: whatever runs in its namespaces is ended by ``close()``, and by a guard of
/// its own should this process be killed. Every call blocks, briefly unless it says otherwise.
package final class RigNetwork: Sendable {
  package let hosts: [RigHost]
  package let directory: String
  package let links: NetworkSwitch
  /// Who servers run as.
  package let account: (user: UInt32, group: UInt32)

  private struct State {
    var started: [Int32] = []
    var guardInput: Int32 = -1
    var guardPid: Int32 = 0
    var isClosed = false
  }

  private let state = Mutex(State())
  private let packets: [Int32]

  /// - Parameters:
  ///   - names: A host each; addresses are 10.77.0.1 and up, in this order.
  ///   - seed: Of the switch's chance.
  package init(_ names: [String], seed: UInt64) throws(SystemFailure) {
    guard geteuid() == 0 else { throw SystemFailure("unshare", path: "network namespaces need root", number: EPERM) }
    guard let entry = getpwnam("postgres") else { throw SystemFailure("getpwnam", path: "postgres", number: ENOENT) }
    account = (entry.pointee.pw_uid, entry.pointee.pw_gid)
    var template = Array("\(Self.place)/salvor-room-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemFailure("mkdtemp", path: Self.place) }
    let root = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    chmod(root, 0o755)
    directory = root
    var hosts: [RigHost] = []
    var packets: [Int32] = []
    do throws(SystemFailure) {
      for (index, name) in names.enumerated() {
        var opened = rig_host()
        let address = UInt32(10) << 24 | 77 << 16 | UInt32(index + 1)
        let failure = rig_open_host(address, &opened)
        guard failure == 0 else { throw SystemFailure("unshare", path: name, number: failure) }
        packets.append(opened.packets)
        hosts.append(
          RigHost(
            name: name, address: "10.77.0.\(index + 1)", directory: "\(root)/\(name)", index: index,
            space: opened.space, number: opened.number))
        try Files.createDirectory("\(root)/\(name)", mode: 0o755)
        chown("\(root)/\(name)", account.user, account.group)
      }
      links = try NetworkSwitch(
        zip(hosts, packets).map { host, descriptor in
          .init(descriptor: descriptor, address: UInt32(10) << 24 | 77 << 16 | UInt32(host.index + 1))
        }, seed: seed)
    } catch {
      for descriptor in packets + hosts.map(\.space) { Glibc.close(descriptor) }
      try? Files.removeTree(root)
      throw error
    }
    (self.hosts, self.packets) = (hosts, packets)
    try startGuard()
  }

  deinit { close() }

  /// In memory where there is room: a full disk is made of a file system of its own.
  private static let place: String =
    ((try? Files.freeBytes(at: "/dev/shm")) ?? 0) > 4 << 30 ? "/dev/shm" : "/tmp"

  package subscript(name: String) -> RigHost {
    guard let host = hosts.first(where: { $0.name == name }) else { preconditionFailure("no host is called \(name)") }
    return host
  }

  // MARK: The network

  /// Sets the rule from `a` to `b`, and if `bothWays` back too.
  package func link(_ a: String, _ b: String, _ rule: NetworkRule, bothWays: Bool = true) {
    let (from, to) = (self[a].index, self[b].index)
    links.change { rules in
      rules[from, to] = rule
      if bothWays { rules[to, from] = rule }
    }
  }

  /// Every link as it was.
  package func heal() {
    links.change { rules in
      for from in hosts.indices { for to in hosts.indices where from != to { rules[from, to] = .open } }
    }
  }

  // MARK: Processes

  /// Starts a program on a host; its words go to `<host>/<log>`. The number stays the program's own.
  @discardableResult
  package func start(
    _ words: [String], on name: String, log: String, asRoot: Bool = false, environment: [String: String] = [:]
  ) throws(SystemFailure) -> Int32 {
    let host = self[name]
    var line = ["/usr/bin/nsenter", "--net=/proc/\(getpid())/fd/\(host.space)", "--"]
    if !asRoot, Self.isForAll(words[0]) {
      line += ["/usr/bin/setpriv", "--reuid=\(account.user)", "--regid=\(account.group)", "--clear-groups", "--"]
    }
    let process = try GatedProcess(
      .init(
        path: line[0], arguments: line + words, environment: Self.environment.merging(environment) { $1 },
        workingDirectory: "/", output: try File("\(host.directory)/\(log)", O_WRONLY | O_CREAT | O_APPEND, mode: 0o644),
        isDetached: false))
    try process.begin()
    state.withLock { $0.started.append(process.pid) }
    return process.pid
  }

  /// Whether any account can start it: a program that was built below somebody's private directory runs as root.
  private static func isForAll(_ program: String) -> Bool {
    var path = program
    var status = stat()
    while path != "/", !path.isEmpty {
      guard stat(path, &status) == 0, status.st_mode & 0o001 != 0 else { return false }
      path = Files.parent(of: path)
    }
    return true
  }

  /// Runs a program on a host to its end; blocks.
  ///
  /// - Throws: If it ends with anything but 0; what it said is in `<host>/<log>`.
  package func run(
    _ words: [String], on name: String, log: String = "commands.log", asRoot: Bool = false,
    environment: [String: String] = [:]
  ) throws(SystemFailure) {
    let pid = try start(words, on: name, log: log, asRoot: asRoot, environment: environment)
    guard waitFor(pid) == 0 else { throw SystemFailure("run", path: words.joined(separator: " "), number: ECHILD) }
  }

  private static let environment = [
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "TZ": "UTC", "LC_ALL": "C.UTF-8",
  ]

  private func waitFor(_ pid: Int32) -> Int32 {
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1, errno == EINTR {}
    state.withLock { $0.started.removeAll { $0 == pid } }
    return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
  }

  package struct Process: Sendable, Equatable {
    package var pid: Int32
    package var parent: Int32
    /// As the kernel calls it, such as `postgres`.
    package var program: String
  }

  /// What runs on a host now, whoever started it.
  package func processes(on name: String) -> [Process] {
    reap()
    return Self.processes(in: [self[name].number]).filter { ProcessStatus(pid: $0.pid)?.isAlive ?? false }
  }

  private static func processes(in spaces: Set<UInt64>) -> [Process] {
    var found: [Process] = []
    for entry in (try? Files.names(in: "/proc")) ?? [] {
      guard let pid = Int32(entry.lossyText) else { continue }
      var status = stat()
      guard stat("/proc/\(pid)/ns/net", &status) == 0, spaces.contains(UInt64(status.st_ino)) else { continue }
      guard let bytes = try? Files.read("/proc/\(pid)/stat", limitBytes: 1 << 16),
        let open = bytes.firstIndex(of: UInt8(ascii: "(")), let end = bytes.lastIndex(of: UInt8(ascii: ")"))
      else { continue }
      let fields = bytes[(end + 1)...].split(separator: 32)
      guard fields.count > 2, let parent = Int32(String(decoding: fields[1], as: UTF8.self)) else { continue }
      found.append(
        Process(pid: pid, parent: parent, program: String(decoding: bytes[(open + 1)..<end], as: UTF8.self)))
    }
    return found
  }

  /// Sends a signal to everything of that name on a host, parents first.
  ///
  /// - Returns: How many there were.
  @discardableResult
  package func signal(_ number: Int32, _ program: String, on name: String) -> Int {
    let found = processes(on: name).filter { $0.program == program }
    let pids = Set(found.map(\.pid))
    for process in found.sorted(by: { !pids.contains($0.parent) && pids.contains($1.parent) }) {
      kill(process.pid, number)
    }
    return found.count
  }

  /// Those of our children that have ended are asked how, so that their numbers go back.
  private func reap() {
    state.withLock { state in
      state.started.removeAll { pid in
        var status: Int32 = 0
        return waitpid(pid, &status, WNOHANG) != 0
      }
    }
  }

  // MARK: Afterwards

  /// Ends what runs on the hosts and removes every file, should this process come to an end without ``close()``.
  private func startGuard() throws(SystemFailure) {
    var ends: [Int32] = [0, 0]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw SystemFailure("socketpair")
    }
    defer { Glibc.close(ends[1]) }
    let spaces = hosts.map { "net:[\($0.number)]" }.joined(separator: "|")
    let script = """
      read -r word; [ "$word" = done ] && exit 0
      for round in 1 2 3; do for process in /proc/[0-9]*; do
        case "|$1|" in *"|$(readlink "$process/ns/net")|"*) kill -9 "${process#/proc/}" ;; esac
      done; done
      for host in "$2"/*/; do
        segment=$(awk 'NR == 7 { print $2 }' "$host/disk/data/postmaster.pid") && ipcrm -m "$segment"
        umount -l "$host/disk"
      done
      rm -rf "$2"
      """
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[1], 0)
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    posix_spawnattr_setflags(&attributes, 0x80 /* POSIX_SPAWN_SETSID */)
    var arguments: [UnsafeMutablePointer<CChar>?] =
      ["/bin/sh", "-c", script, "guard", spaces, directory].map { (text: String) in strdup(text) } + [nil]
    var variables: [UnsafeMutablePointer<CChar>?] =
      Self.environment.map { (name: String, value: String) in strdup("\(name)=\(value)") } + [nil]
    defer { for text in arguments + variables { free(text) } }
    var pid: pid_t = 0
    let failure = posix_spawn(&pid, "/bin/sh", &actions, &attributes, &arguments, &variables)
    guard failure == 0 else {
      Glibc.close(ends[0])
      throw SystemFailure("spawn", path: "/bin/sh", number: failure)
    }
    state.withLock { ($0.guardInput, $0.guardPid) = (ends[0], pid) }
  }

  /// Ends everything on the hosts, by pid, and removes their files. More than once is fine.
  package func close(keepingFiles: Bool = false) {
    let isFirst = state.withLock { state in
      defer { state.isClosed = true }
      return !state.isClosed
    }
    guard isFirst else { return }
    let spaces = Set(hosts.map(\.number))
    for _ in 0..<500 {
      let left = Self.processes(in: spaces).filter { ProcessStatus(pid: $0.pid)?.isAlive ?? false }
      if left.isEmpty { break }
      for process in left { kill(process.pid, SIGKILL) }
      reap()
      poll(nil, 0, 10)
    }
    reap()
    links.end()
    for descriptor in packets + hosts.map(\.space) { Glibc.close(descriptor) }
    for host in hosts { Self.removeSharedMemory("\(host.directory)/disk/data/postmaster.pid") }
    if !keepingFiles {
      for host in hosts { umount2(host.directory + "/disk", Int32(MNT_DETACH)) }
      try? Files.removeTree(directory)
    }
    let (input, pid) = state.withLock { ($0.guardInput, $0.guardPid) }
    guard input >= 0 else { return }
    _ = write(input, "done\n", 5)
    Glibc.close(input)
    var status: Int32 = 0
    while waitpid(pid, &status, 0) == -1, errno == EINTR {}
  }

  /// What a PostgreSQL that was killed leaves in the kernel; its pid file names it.
  private static func removeSharedMemory(_ path: String) {
    guard let bytes = try? Files.read(path, limitBytes: 4096) else { return }
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
    guard lines.count > 6, let segment = lines[6].split(separator: " ").last.flatMap({ Int32($0) }) else { return }
    shmctl(segment, IPC_RMID, nil)
  }

  /// Gives a host a disk of its own of that size, at `<host>/disk`.
  package func mountDisk(on name: String, bytes: Int) throws(SystemFailure) -> String {
    let path = self[name].directory + "/disk"
    try Files.createDirectory(path, mode: 0o755)
    guard mount("salvor-disk", path, "tmpfs", 0, "size=\(bytes),mode=755") == 0 else {
      throw SystemFailure("mount", path: path)
    }
    chown(path, account.user, account.group)
    return path
  }
}
