import Core
import DriverKit
import Glibc
import IO

/// A node of our own, on loopback only, under a user that nobody else knows.
struct ScratchServer: Sendable {
  var user: String
  var password: Secret
  var port: UInt16
  var management: Management
  fileprivate var directory: String
  fileprivate var server: OwnProcess
  fileprivate var mapper: OwnProcess

  fileprivate struct Ports: Sendable {
    var amqp: UInt16
    var management: UInt16
    var distribution: UInt16
    var mapper: UInt16
  }

  /// Why it didn't come up.
  fileprivate enum Refusal: Error {
    case portTaken
    case failed(DriverError)
  }
}

extension RabbitMQDriver {
  /// Runs `body` with a server over `directory/mnesia`, which it changes, and kills the server.
  ///
  /// The node keeps its name, since its files have it; it finds itself on loopback whatever the name's host is, by a port mapper
  /// of our own, and takes no node's connection without a cookie that was made up for it.
  ///
  /// - Throws: ``DriverError/corrupt(_:)`` if the server ends before it serves.
  func withScratchServer<T: Sendable>(
    of node: String, at directory: String, interruption: Interruption,
    _ body: @Sendable (ScratchServer) async throws(DriverError) -> T
  ) async throws(DriverError) -> T {
    var attempts = 3
    while true {
      attempts -= 1
      let scratch = try await startScratch(node, directory)
      let result: Result<T, ScratchServer.Refusal>
      do throws(ScratchServer.Refusal) {
        try await ready(scratch, interruption)
        do throws(DriverError) { result = .success(try await body(scratch)) } catch { throw .failed(error) }
      } catch { result = .failure(error) }
      await environment.pool.run {
        for process in [scratch.server, scratch.mapper] {
          process.kill()
          _ = process.wait()
        }
      }
      switch result {
      case .success(let value): return value
      case .failure(.failed(let error)): throw interruption.isSet ? .cancelled : error
      // Between finding a free port and taking it somebody else may.
      case .failure(.portTaken) where attempts > 0: continue
      case .failure(.portTaken): throw .engineFailed("no free ports on loopback for a proof", log: "")
      }
    }
  }

  private func startScratch(_ node: String, _ directory: String) async throws(DriverError) -> ScratchServer {
    let user = "salvor-proof-\(Hex.encode(environment.randomness.bytes(8)))"
    let password = Secret(Hex.encode(environment.randomness.bytes(16)))
    let cookie = Hex.encode(environment.randomness.bytes(16))
    let binary = configuration.binary
    let (ports, mapper, server) = try await environment.pool.run {
      () throws(DriverError) -> (ScratchServer.Ports, OwnProcess, OwnProcess) in
      do throws(SystemFailure) {
        let ports = try ScratchServer.freePorts()
        try ScratchServer.configure(directory, node, ports, user, password, cookie)
        // Both go when whoever started them does.
        let tied = ["setpriv", "--pdeathsig", "KILL", "--"]
        let log = try File("\(directory)/log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND)
        let mapper = try OwnProcess.start(
          tied + ["epmd", "-port", String(ports.mapper), "-address", "127.0.0.1"], output: log.descriptor)
        do throws(SystemFailure) {
          let server = try OwnProcess.start(
            tied + ["env", "-C", directory, binary], output: log.descriptor,
            variables: ScratchServer.variables(directory, node, ports))
          return (ports, mapper, server)
        } catch {
          mapper.kill()
          _ = mapper.wait()
          throw error
        }
      } catch {
        if error.call == "spawn" { throw .engineFailed("\(binary) can't be run", log: error.message) }
        throw DriverError(error)
      }
    }
    return ScratchServer(
      user: user, password: password, port: ports.amqp,
      management: try Management(
        host: "127.0.0.1", port: ports.management, user: user, password: password, time: environment.time),
      directory: directory, server: server, mapper: mapper)
  }

  /// Waits until it serves, however long it reads its files before.
  private func ready(_ scratch: ScratchServer, _ interruption: Interruption) async throws(ScratchServer.Refusal) {
    while true {
      if interruption.isSet { throw .failed(.cancelled) }
      // The user is made just before clients are let in, and after everything has been read.
      var isServing = false
      do throws(DriverError) {
        isServing = try await scratch.management.ask(.get, "whoami", nil, .seconds(60)).status == 200
      } catch {
        if case .cancelled = error { throw .failed(.cancelled) }
      }
      let port = scratch.port
      if isServing, await environment.pool.run({ ListeningProcess.isListening(port: port) }) { return }
      if let code = await environment.pool.run({ scratch.server.ended() }) { throw await refusal(scratch, code) }
      do { try await environment.time.sleep(for: .milliseconds(50)) } catch { throw .failed(DriverError(error)) }
    }
  }

  private func refusal(_ scratch: ScratchServer, _ code: Int32) async -> ScratchServer.Refusal {
    let place = "\(scratch.directory)/log"
    let log = await environment.pool.run {
      String(decoding: (try? Files.read(place, limitBytes: 1 << 26)) ?? [], as: UTF8.self)
    }
    if log.contains("eaddrinuse") || log.contains("port_in_use") { return .portTaken }
    let said = lastLines(log, count: 5)
    if let code = await environment.pool.run({ scratch.mapper.ended() }) {
      return .failed(.engineFailed("epmd ended with code \(code)", log: said))
    }
    // The shell's codes for a program that can't be found or run.
    if code == 126 || code == 127 { return .failed(.engineFailed("\(configuration.binary) can't be run", log: said)) }
    return .failed(.corrupt("\(configuration.binary) doesn't start on the copy (\(code)): \(said)"))
  }
}

extension ScratchServer {
  static func mnesia(_ directory: String) -> String { "\(directory)/mnesia" }

  /// Four ports of loopback that nobody has.
  fileprivate static func freePorts() throws(SystemFailure) -> Ports {
    var found: [UInt16] = []
    var open: [Int32] = []
    defer { for descriptor in open { close(descriptor) } }
    for _ in 0..<4 {
      let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      guard descriptor >= 0 else { throw SystemFailure("socket") }
      open.append(descriptor)
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_addr.s_addr = inet_addr("127.0.0.1")
      var size = socklen_t(MemoryLayout<sockaddr_in>.size)
      let isBound = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(descriptor, $0, size) == 0 && getsockname(descriptor, $0, &size) == 0
        }
      }
      guard isBound else { throw SystemFailure("bind", path: "loopback") }
      found.append(UInt16(bigEndian: address.sin_port))
    }
    return Ports(amqp: found[0], management: found[1], distribution: found[2], mapper: found[3])
  }

  fileprivate static func configure(
    _ directory: String, _ node: String, _ ports: Ports, _ user: String, _ password: Secret, _ cookie: String
  ) throws(SystemFailure) {
    let host = String(node[node.index(after: node.firstIndex(of: "@") ?? node.startIndex)...])
    let files: [(String, String)] = [
      (".erlang.cookie", cookie),
      ("env.conf", ""),
      ("plugins", "[rabbitmq_management].\n"),
      ("hosts", "{lookup, [file, native]}.\n{host, {127,0,0,1}, [\"\(host)\"]}.\n"),
      (
        "definitions.json",
        "{\"users\": [{\"name\": \"\(user)\", \"password\": \"\(password.revealed())\", \"tags\": \"administrator\"}]}\n"
      ),
      (
        "rabbitmq.conf",
        """
        listeners.tcp.1 = 127.0.0.1:\(ports.amqp)
        management.tcp.ip = 127.0.0.1
        management.tcp.port = \(ports.management)
        load_definitions = \(directory)/definitions.json
        disk_free_limit.absolute = 1MB
        log.console.level = warning

        """
      ),
    ]
    for (name, text) in files { try Files.replace("\(directory)/\(name)", with: Array(text.utf8)) }
  }

  fileprivate static func variables(_ directory: String, _ node: String, _ ports: Ports) -> [String: String] {
    [
      "HOME": directory,
      "RABBITMQ_CONF_ENV_FILE": "\(directory)/env.conf",
      "RABBITMQ_NODENAME": node,
      "RABBITMQ_USE_LONGNAME": node.contains(".") ? "true" : "false",
      "RABBITMQ_MNESIA_BASE": mnesia(directory),
      "RABBITMQ_LOG_BASE": directory,
      "RABBITMQ_LOGS": "-",
      "RABBITMQ_PID_FILE": "\(directory)/pid",
      "RABBITMQ_ENABLED_PLUGINS_FILE": "\(directory)/plugins",
      "RABBITMQ_CONFIG_FILE": "\(directory)/rabbitmq.conf",
      "RABBITMQ_CONFIG_FILES": "\(directory)/none/*.conf",
      "RABBITMQ_ADVANCED_CONFIG_FILE": "\(directory)/none.config",
      "RABBITMQ_DIST_PORT": String(ports.distribution),
      // Its threads give their processor away at once when they have nothing to do.
      "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
        "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
      "ERL_EPMD_PORT": String(ports.mapper),
      "ERL_EPMD_ADDRESS": "127.0.0.1",
      "ERL_INETRC": "\(directory)/hosts",
      // No memory of it on a disk.
      "ERL_CRASH_DUMP_SECONDS": "0",
      // The server takes the script's place, so that it is our child.
      "RUNNING_UNDER_SYSTEMD": "1",
    ]
  }
}
