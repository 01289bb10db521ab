import Core
import DriverKit
import IO
import StateKit
import TestSupport
import Testing
import TrafficContract
import TrafficEnvoy
import TrafficExec
import TrafficHAProxy
import TrafficNGINX
import Web

#if canImport(Glibc)
  import Glibc
#endif

/// Two small HTTP servers that say who they are and count what comes, in one process.
final class HTTPBackends: Sendable {
  let ports: [BackendName: UInt16]
  private let process: ServerProcess
  let directory: TemporaryDirectory

  private static let program = """
    import sys, os, time, threading
    from http.server import ThreadingHTTPServer, BaseHTTPRequestHandler
    directory = sys.argv[1]
    def serve(name, port):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            count = 0
            lock = threading.Lock()
            def log_message(self, *words): pass
            def say(self, status, text):
                body = text.encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            def do_GET(self):
                if self.path == "/arrivals": return self.say(200, str(Handler.count))
                with Handler.lock: Handler.count += 1
                if os.path.exists(directory + "/slow-" + name): time.sleep(0.15)
                if os.path.exists(directory + "/fail-" + name): return self.say(500, name)
                if self.path != "/session": return self.say(200, name)
                self.send_response(200)
                self.send_header("connection", "close")
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(name.encode())
                        self.wfile.flush()
                        time.sleep(0.05)
                except OSError: pass
                self.close_connection = True
        class Server(ThreadingHTTPServer):
            request_queue_size = 64
            daemon_threads = True
        server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever).start()
    words = sys.argv[2:]
    # The last to listen is the one that is waited for.
    for name, port in zip(words[0::2], words[1::2]): serve(name, int(port))
    """

  /// Blocks.
  init(_ names: [BackendName] = ["a", "b"]) throws {
    let directory = try TemporaryDirectory("backends")
    self.directory = directory
    let ports = try Dictionary(uniqueKeysWithValues: names.map { ($0, try freePort()) })
    self.ports = ports
    try Files.replace(directory.file("backends.py"), with: Array(Self.program.utf8))
    process = try ServerProcess(
      port: ports[names.last!]!,
      ["/usr/bin/python3", directory.file("backends.py"), directory.path]
        + names.flatMap { [$0.text, "\(ports[$0]!)"] })
  }

  func address(_ name: BackendName) -> String { "127.0.0.1:\(ports[name]!)" }

  /// Every request is answered with 500 from here on.
  func fail(_ name: BackendName, _ isFailing: Bool = true) throws {
    if isFailing {
      try Files.replace(directory.file("fail-\(name)"), with: [])
    } else {
      try Files.removeTree(directory.file("fail-\(name)"))
    }
  }

  func arrivals() async throws -> [BackendName: Int] {
    var result: [BackendName: Int] = [:]
    for (name, port) in ports {
      let answer = try await WebClient().send(WebRequest(.get, "http://127.0.0.1:\(port)/arrivals"))
      result[name] = Int(String(decoding: answer.body, as: UTF8.self))
    }
    return result
  }
}

/// A router of HTTP on loopback.
final class HTTPRig: TrafficRig {
  let router: any TrafficRouter
  let backends: HTTPBackends
  let port: UInt16
  let directory: TemporaryDirectory
  private let process: ServerProcess
  /// Whose end is this value's.
  private let more: [TemporaryDirectory]

  init(
    _ router: any TrafficRouter, _ backends: HTTPBackends, _ port: UInt16, _ directory: TemporaryDirectory,
    _ process: ServerProcess
  ) {
    (self.router, self.backends, self.port, self.directory, self.process) = (router, backends, port, directory, process)
    more = []
  }

  func request() async throws -> BackendName? {
    var request = WebRequest(.get, "http://127.0.0.1:\(port)/")
    // Each on a connection of its own.
    request.headers = [("connection", "close")]
    request.timeLimit = .seconds(30)
    guard let answer = try? await WebClient().send(request), answer.isSuccess else { return nil }
    return BackendName(String(decoding: answer.body, as: UTF8.self))
  }

  func arrivals() async throws -> [BackendName: Int] { try await backends.arrivals() }

  func session() async throws -> any RigSession { try await HTTPSession.open(port) }

  func freeze(_ isFrozen: Bool) async throws {
    let children = (try? Files.read("/proc/\(process.pid)/task/\(process.pid)/children")) ?? []
    let workers = String(decoding: children, as: UTF8.self).split(separator: " ").compactMap { pid_t($0) }
    for pid in [process.pid] + workers { try await Self.freeze(pid, isFrozen) }
  }

  /// Every thread of it stands still when this returns: each stops by itself, when it comes to it.
  static func freeze(_ pid: pid_t, _ isFrozen: Bool) async throws {
    kill(pid, isFrozen ? SIGSTOP : SIGCONT)
    guard isFrozen else { return }
    for thread in try Files.names(in: "/proc/\(pid)/task") {
      guard let number = pid_t(thread.lossyText) else { continue }
      while let status = ProcessStatus(pid: number), status.isAlive, status.state != UInt8(ascii: "T") {
        try await SystemTime().sleep(for: .milliseconds(2))
      }
    }
  }
}

struct Broken: SocketFailure {
  var isSilence = false
  static func silent(_ limit: Duration) -> Broken { Broken(isSilence: true) }
  static func broken(_ why: String) -> Broken { Broken() }
  static var cancelled: Broken { Broken() }
}

/// An answer that never ends.
final class HTTPSession: RigSession {
  let backend: BackendName
  private let socket: TimedSocket<Broken>

  private init(_ socket: TimedSocket<Broken>, _ backend: BackendName) {
    (self.socket, self.backend) = (socket, backend)
  }

  static func open(_ port: UInt16) async throws -> HTTPSession {
    try await BlockingPool.shared.run {
      let socket = try TimedSocket<Broken>.connect(host: "127.0.0.1", port: port, patience: .seconds(10))
      try socket.send(Array("GET /session HTTP/1.1\r\nhost: x\r\n\r\n".utf8), patience: .seconds(10))
      var seen = ""
      while !seen.contains("\r\n\r\n") || seen.hasSuffix("\r\n\r\n") {
        let more = try receive(socket, .seconds(20))
        if more.isEmpty { throw Broken() }
        seen += String(decoding: more, as: UTF8.self)
      }
      let body = seen[seen.range(of: "\r\n\r\n")!.upperBound...]
      return HTTPSession(socket, BackendName(unchecked: String(body.first { $0 == "a" || $0 == "b" } ?? "?")))
    }
  }

  private static func receive(_ socket: TimedSocket<Broken>, _ patience: Duration) throws(Broken) -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 1)
    defer { buffer.deallocate() }
    let count = try socket.receive(into: buffer, patience: patience)
    return Array(buffer.prefix(count))
  }

  func ends() async -> Bool {
    await BlockingPool.shared.run {
      for _ in 0..<600 {
        do throws(Broken) { if try Self.receive(self.socket, .seconds(1)).isEmpty { return true } } catch {
          if !error.isSilence { return true }
        }
      }
      return false
    }
  }

  /// What is under way was sent before it was looked at; so a while later something new comes, or the end.
  func isOpen() async -> Bool {
    await BlockingPool.shared.run {
      for _ in 0..<5 {
        guard let bytes = try? Self.receive(self.socket, .seconds(20)), !bytes.isEmpty else { return false }
      }
      return true
    }
  }

  func end() async { socket.shutDown() }
}

// MARK: The routers

extension HTTPRig {
  static let time = SystemTime()

  /// HAProxy with both servers at work, as it stands in docs/operating/traffic.md.
  static func haproxy(
    _ backends: HTTPBackends, mode: String = "http", wrapping: (HAProxySettings) throws -> any TrafficRouter
  ) throws -> HTTPRig {
    let directory = try TemporaryDirectory("haproxy")
    let port = try freePort()
    let servers = backends.ports.keys.sorted().map { "  server srv-\($0) \(backends.address($0)) weight 100" }
    let text = """
      global
        stats socket \(directory.file("admin.sock")) mode 600 level admin
        server-state-file \(directory.file("state"))
      defaults
        mode \(mode)
        load-server-state-from-file global
        timeout connect 2s
        timeout client 60s
        timeout server 60s
      frontend in
        bind 127.0.0.1:\(port)
        default_backend bank
      backend bank
        balance roundrobin
      \(servers.joined(separator: "\n"))

      """
    try Files.replace(directory.file("haproxy.cfg"), with: Array(text.utf8))
    let process = try ServerProcess(port: port, ["haproxy", "-db", "-f", directory.file("haproxy.cfg")])
    var settings = HAProxySettings(
      route: "bank", socket: directory.file("admin.sock"), backend: "bank",
      servers: backends.ports.keys.sorted().map { ($0, "srv-\($0)") })
    settings.stateFile = directory.file("state")
    return HTTPRig(try wrapping(settings), backends, port, directory, process)
  }

  static func haproxy() throws -> HTTPRig {
    try haproxy(HTTPBackends()) { try HAProxyRouter($0, time: time) }
  }

  /// A program that speaks for an HAProxy.
  static func exec() throws -> HTTPRig {
    let program = """
      import sys, json, socket
      place = sys.argv[1]
      asked = json.loads(sys.argv[2])
      def say(command):
          connection = socket.socket(socket.AF_UNIX)
          connection.settimeout(2)
          connection.connect(place)
          connection.sendall(command.encode() + b"\\n")
          answer = b""
          while True:
              more = connection.recv(65536)
              if not more: return answer.decode()
              answer += more
      if asked["verb"] == "weigh":
          for name, weight in asked["weights"].items():
              if weight > 0: say(f"set server bank/{name} weight {weight}")
              say(f"set server bank/{name} state {'ready' if weight else 'maint'}")
      if asked["verb"] == "cut": say(f"shutdown sessions server bank/{asked['server']}")
      rows = [line.split(",") for line in say("show stat bank 4 -1").lstrip("# ").splitlines() if line]
      servers = [dict(zip(rows[0], row)) for row in rows[1:]]
      print("for people: asked", asked["verb"])
      print(json.dumps({"servers": [
          {"name": row["svname"], "sessions": int(row["scur"]),
           "weight": 0 if row["status"].startswith("MAINT") else int(row["weight"])} for row in servers]}))
      """
    return try haproxy(HTTPBackends()) { settings in
      let directory = Files.parent(of: settings.socket)
      try Files.replace("\(directory)/router.py", with: Array(program.utf8))
      return try ExecRouter(
        ExecRouterSettings(
          route: settings.route, words: ["/usr/bin/python3", "-I", "-S", "\(directory)/router.py", settings.socket],
          servers: settings.servers), time: time)
    }
  }

  static func nginx() throws -> HTTPRig {
    let backends = try HTTPBackends()
    let directory = try TemporaryDirectory("nginx")
    let (port, echo) = (try freePort(), try freePort())
    var settings = NGINXSettings(
      route: "bank-web", upstream: "bank", servers: backends.ports.keys.sorted().map { ($0, backends.address($0)) },
      file: directory.file("route.conf"), echo: "http://127.0.0.1:\(echo)/salvor/bank-web",
      pidFile: directory.file("nginx.pid"))
    settings.test = ["nginx", "-t", "-q", "-c", directory.file("nginx.conf")]
    let text = """
      user root;
      worker_processes 2;
      pid \(directory.file("nginx.pid"));
      error_log \(directory.file("error.log"));
      events { worker_connections 256; }
      http {
        access_log off;
        client_body_temp_path \(directory.path);
        proxy_temp_path \(directory.path);
        fastcgi_temp_path \(directory.path);
        uwsgi_temp_path \(directory.path);
        scgi_temp_path \(directory.path);
        include \(directory.file("route.conf"));
        server {
          listen 127.0.0.1:\(port);
          location / { proxy_pass http://bank; proxy_buffering off; }
        }
        server {
          listen 127.0.0.1:\(echo);
          location = /salvor/bank-web { return 200 $\(NGINXRouter.variable("bank-web")); }
        }
      }

      """
    try Files.replace(directory.file("nginx.conf"), with: Array(text.utf8))
    try Files.replace(
      settings.file, with: Array(NGINXRouter.text(settings, ["a": 100], edition: "first").utf8), mode: 0o644)
    let process = try ServerProcess(
      port: echo, ["nginx", "-c", directory.file("nginx.conf"), "-g", "daemon off;"])
    return HTTPRig(try NGINXRouter(settings, web: WebClient(), time: time), backends, port, directory, process)
  }

  static func envoy(_ program: String) throws -> HTTPRig {
    let backends = try HTTPBackends()
    let directory = try TemporaryDirectory("envoy")
    let (port, admin) = (try freePort(), try freePort())
    let settings = EnvoySettings(
      route: "bank", cluster: "bank",
      servers: backends.ports.keys.sorted().map { ($0, "127.0.0.1", backends.ports[$0]!) },
      file: directory.file("bank.json"), admin: "http://127.0.0.1:\(admin)")
    try Files.replace(settings.file, with: try EnvoyRouter.text(settings, ["a": 100]), mode: 0o644)
    let text = """
      node: {id: test, cluster: test}
      admin: {address: {socket_address: {address: 127.0.0.1, port_value: \(admin)}}}
      static_resources:
        listeners:
        - name: in
          address: {socket_address: {address: 127.0.0.1, port_value: \(port)}}
          filter_chains:
          - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: in
                http_filters:
                - name: envoy.filters.http.router
                  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
                route_config:
                  virtual_hosts:
                  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: bank, timeout: 0s}}]}
        clusters:
        - name: bank
          type: EDS
          connect_timeout: 1s
          eds_cluster_config: {eds_config: {path_config_source: {path: \(settings.file)}}}
          common_lb_config: {healthy_panic_threshold: {value: 0}}

      """
    try Files.replace(directory.file("envoy.yaml"), with: Array(text.utf8))
    let process = try ServerProcess(
      port: port,
      [program, "-c", directory.file("envoy.yaml"), "--concurrency", "2", "-l", "error", "--disable-hot-restart"])
    return HTTPRig(
      EnvoyRouter(settings, web: try WebClient(), time: time), backends, port, directory, process)
  }
}
