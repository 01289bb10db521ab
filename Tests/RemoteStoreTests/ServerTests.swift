import Core
import Foundation
import IO
import ObjectStoreLocal
import RepositoryServer
import Synchronization
import TestSupport
import Testing
import Vault
import Web

private func send(
  _ method: WebRequest.Method, _ url: String, user: String? = nil, headers: [(name: String, value: String)] = [],
  body: [UInt8]? = nil, trust: WebTrust = WebTrust()
) async throws -> WebResponse {
  var request = WebRequest(method, url)
  request.headers = headers
  if let user { request.headers.append(("Authorization", "Basic \(Data(user.utf8).base64EncodedString())")) }
  request.body = body
  return try await WebClient(trust).send(request)
}

/// Users alice (bcrypt) and bob (SHA-512), both with the password `swordfish`.
private func usersFile(_ directory: TemporaryDirectory) async throws -> String {
  let path = directory.file("users")
  try await CommandRun(["htpasswd", "-cbB", "-C", "5", path, "alice", "swordfish"]).succeeded()
  let hash = try await CommandRun(["openssl", "passwd", "-6", "swordfish"]).succeeded().output
  try Files.replace(path, with: try Files.read(path) + Array("# a comment\nbob:\(hash)".utf8))
  return path
}

@Suite("Repository server")
struct ServerTests {
  @Test func `only content whose hash is its name is kept, whole, and never replaced`() async throws {
    let directory = try TemporaryDirectory("serve")
    try await withServer(ServerSettings(directory: directory.path)) { port in
      let base = "http://127.0.0.1:\(port)/r"
      #expect(try await send(.post, "\(base)/?create=true", body: []).status == 200)
      let id = Digest.of("content")
      let wrong = try await send(.post, "\(base)/data/\(id)", body: Array("contend".utf8))
      #expect(wrong.status == 400)
      #expect(try Files.names(in: directory.file("r/data/\(id.hex.prefix(2))")).isEmpty, "nothing is left of it")
      #expect(try await send(.post, "\(base)/data/\(id)", body: Array("content".utf8)).status == 200)
      #expect(try await send(.post, "\(base)/data/\(id)", body: Array("content".utf8)).status == 200)
      #expect(try await send(.post, "\(base)/config", body: [1, 2]).status == 200)
      #expect(try await send(.post, "\(base)/config", body: [1, 2]).status == 200)
      #expect(try await send(.post, "\(base)/config", body: [1, 3]).status == 403)
      #expect(try await send(.get, "\(base)/config").body == [1, 2])
      let status = try File(directory.file("r/data/\(id.hex.prefix(2))/\(id)"), 0).status()
      #expect(status.st_mode & 0o777 == 0o400)
    }
  }

  @Test func `an upload that breaks off leaves nothing`() async throws {
    let directory = try TemporaryDirectory("serve")
    try await withServer(ServerSettings(directory: directory.path)) { port in
      _ = try await send(.post, "http://127.0.0.1:\(port)/?create=true", body: [])
      // The config's name says nothing of its content: only the length tells that it is not whole.
      for target in ["config", "data/\(Digest.of("content"))"] {
        let text = "POST /\(target) HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\ncont"
        try await CommandRun(["python3", "-c", Self.rawRequest, "\(port)", text]).succeeded()
      }
      // The server may hear of the end a moment later.
      for _ in 0..<100 where try Self.files(directory.path) != [] {
        try await SystemTime().sleep(for: .milliseconds(20))
      }
      #expect(try Self.files(directory.path) == [])
    }
  }

  private static let rawRequest = """
    import socket, sys
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    s.sendall(sys.argv[2].encode())
    s.shutdown(socket.SHUT_WR)
    s.settimeout(20)
    try:
        while s.recv(4096): pass
    except OSError: pass
    """

  private static func files(_ directory: String) throws -> [String] {
    try Files.names(in: directory).map(\.lossyText).flatMap { name in
      let path = "\(directory)/\(name)"
      return Files.isDirectory(path) ? try files(path) : [path]
    }
  }

  @Test func `paths that mean nothing are refused`() async throws {
    let directory = try TemporaryDirectory("serve")
    let id = Digest.of("content").hex
    try Files.replace(directory.file("secret"), with: [1])
    try await withServer(ServerSettings(directory: directory.file("repositories"))) { port in
      for path in [
        "/../secret", "/%2e%2e/secret", "/a/../../secret", "/.hidden/config", "/a//config", "/data/xyz", "/data/\(id)x",
        "/-rf/config", "/a%00b/config", "/data/\(id.uppercased())", String(repeating: "/a", count: 9) + "/config",
        "/" + String(repeating: "a", count: 65) + "/config", "/keys/keys/\(id)",
      ] {
        let text = "GET \(path) HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        let answer = try await CommandRun(
          [
            "python3", "-c",
            Self.rawRequest.replacing("while s.recv(4096): pass", with: "print(s.recv(4096).decode())"),
            "\(port)", text,
          ])
        #expect(answer.output.hasPrefix("HTTP/1.1 404"), "\(path): \(answer.output)\(answer.errors)")
      }
      let base = "http://127.0.0.1:\(port)/r"
      #expect(try await send(.put, "\(base)/config", body: [1]).status == 405)
      #expect(try await send(.delete, "\(base)/").status == 405)
      #expect(try await send(.post, "\(base)/", body: []).status == 400)
    }
  }

  @Test func `ranges are those of the standard`() async throws {
    let directory = try TemporaryDirectory("serve")
    try await withServer(ServerSettings(directory: directory.path)) { port in
      let base = "http://127.0.0.1:\(port)"
      _ = try await send(.post, "\(base)/?create=true", body: [])
      let url = "\(base)/data/\(Digest.of("content"))"
      _ = try await send(.post, url, body: Array("content".utf8))
      let cases: [(String, Int, String, String?)] = [
        ("bytes=0-2", 206, "con", "bytes 0-2/7"), ("bytes=4-", 206, "ent", "bytes 4-6/7"),
        ("bytes=-2", 206, "nt", "bytes 5-6/7"), ("bytes=5-100", 206, "nt", "bytes 5-6/7"),
        ("bytes=-100", 206, "content", "bytes 0-6/7"), ("bytes=7-8", 416, "", "bytes */7"),
        ("bytes=3-1", 200, "content", nil), ("bytes=0-1,3-4", 200, "content", nil), ("lines=1-2", 200, "content", nil),
        ("bytes=0-9223372036854775807", 206, "content", "bytes 0-6/7"),
      ]
      for (range, status, body, part) in cases {
        let answer = try await send(.get, url, headers: [("Range", range)])
        #expect(answer.status == status, "\(range)")
        #expect(String(decoding: answer.body, as: UTF8.self) == body, "\(range)")
        #expect(answer.headers["content-range"] == part, "\(range)")
      }
    }
  }

  @Test func `only users come in, each to what is theirs, and no secret is logged`() async throws {
    let directory = try TemporaryDirectory("serve")
    var settings = ServerSettings(directory: directory.file("repositories"))
    settings.usersFile = try await usersFile(directory)
    settings.hasPrivateRepositories = true
    let lines = Lines()
    let users = settings.usersFile ?? ""
    try await withServer(settings, log: { lines.add($0) }) { port in
      let base = "http://127.0.0.1:\(port)"
      for user in [nil, "alice:wrong", "carol:swordfish", "alice", "alice:", ":", "alice:swordfish\0"] {
        let answer = try await send(.head, "\(base)/alice/config", user: user)
        #expect(answer.status == 401, "\(user ?? "nobody")")
        #expect(answer.headers["www-authenticate"]?.hasPrefix("Basic") == true)
      }
      for user in ["alice", "bob"] {
        #expect(
          try await send(.post, "\(base)/\(user)/x/?create=true", user: "\(user):swordfish", body: []).status == 200)
        #expect(try await send(.get, "\(base)/\(user)/x/keys/", user: "\(user):swordfish").status == 200)
      }
      for path in ["/bob/x/keys/", "/keys/", "/config"] {
        #expect(try await send(.get, base + path, user: "alice:swordfish").status == 403, "\(path)")
      }
      // A new password counts at once, and the old one no longer.
      try await CommandRun(["htpasswd", "-bB", "-C", "5", users, "alice", "trout"]).succeeded()
      #expect(try await send(.get, "\(base)/alice/x/keys/", user: "alice:swordfish").status == 401)
      #expect(try await send(.get, "\(base)/alice/x/keys/", user: "alice:trout").status == 200)
      // A file that can't be read as users leaves them as they were.
      try Files.replace(users, with: Array("alice:{SHA}abc".utf8))
      #expect(try await send(.get, "\(base)/alice/x/keys/", user: "alice:trout").status == 200)
    }
    #expect(!lines.all.isEmpty)
    for secret in ["swordfish", "trout", "wrong"] { #expect(!lines.all.contains(secret)) }
  }

  @Test func `files of users that are weak or broken are refused, line by line`() async throws {
    let directory = try TemporaryDirectory("serve")
    for text in [
      "", "alice", "alice:plain", "alice:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", "alice:$apr1$x$y", "alice:$2y$05$short",
      "a/b:$6$x$y", "../x:$6$x$y",
    ] {
      var settings = ServerSettings(directory: directory.file("repositories"))
      settings.usersFile = directory.file("users")
      try Files.replace(directory.file("users"), with: Array(text.utf8))
      await #expect(throws: ServerFailure.self, "\(text)") { try await withServer(settings) { _ in } }
    }
  }

  @Test func `an append-only server deletes locks alone`() async throws {
    let directory = try TemporaryDirectory("serve")
    var settings = ServerSettings(directory: directory.path)
    settings.isAppendOnly = true
    try await withServer(settings) { port in
      let store = try restStore("http://127.0.0.1:\(port)/r")
      try await store.prepare()
      for kind in ObjectKind.allCases {
        let name = kind == .config ? ObjectName.config : ObjectName(kind, Digest.of("content"))
        try await store.put(name, Array("content".utf8))
        if kind == .lock {
          try await store.delete(name)
          continue
        }
        do throws(StoreError) {
          try await store.delete(name)
          Issue.record("\(name) was deleted")
        } catch {
          guard case .permission(let reason) = error, reason.contains("append-only") else {
            Issue.record("\(error)")
            continue
          }
        }
        #expect(try await store.contains(name))
      }
    }
  }

  @Test func `a quota holds, across restarts, and deleting makes room`() async throws {
    let directory = try TemporaryDirectory("serve")
    var settings = ServerSettings(directory: directory.path)
    settings.quotaBytes = 5000
    @Sendable func bytes(_ number: Int) -> [UInt8] { SeededRandomness(seed: UInt64(number)).bytes(2000) }
    @Sendable func name(_ number: Int) -> ObjectName { ObjectName(.data, Digest.of(bytes(number))) }
    try await withServer(settings) { port in
      let store = try restStore("http://127.0.0.1:\(port)/r")
      try await store.prepare()
      try await store.put(name(1), bytes(1))
      try await store.put(name(1), bytes(1))
      try await store.put(name(2), bytes(2))
      await #expect(throws: StoreError.self) { try await store.put(name(3), bytes(3)) }
    }
    try await withServer(settings) { port in
      let store = try restStore("http://127.0.0.1:\(port)/r")
      do throws(StoreError) {
        try await store.put(name(3), bytes(3))
        Issue.record("there was no room")
      } catch {
        guard case .full = error else {
          Issue.record("\(error)")
          return
        }
      }
      try await store.delete(name(1))
      try await store.put(name(3), bytes(3))
    }
  }

  @Test func `metrics count what happened, for users alone`() async throws {
    let directory = try TemporaryDirectory("serve")
    var settings = ServerSettings(directory: directory.file("repositories"))
    settings.usersFile = try await usersFile(directory)
    settings.quotaBytes = 1 << 20
    try await withServer(settings) { port in
      let base = "http://127.0.0.1:\(port)"
      _ = try await send(.post, "\(base)/r/?create=true", user: "alice:swordfish", body: [])
      _ = try await send(.post, "\(base)/r/config", user: "alice:swordfish", body: [1, 2, 3])
      _ = try await send(.post, "\(base)/r/data/\(Digest.of("a"))", user: "alice:swordfish", body: [1])
      _ = try await send(.get, "\(base)/r/config", user: "alice:swordfish")
      #expect(try await send(.get, "\(base)/metrics").status == 401)
      let answer = try await send(.get, "\(base)/metrics", user: "bob:swordfish")
      #expect(answer.headers["content-type"]?.hasPrefix("text/plain; version=0.0.4") == true)
      let text = String(decoding: answer.body, as: UTF8.self)
      for line in [
        "salvor_serve_requests_total{method=\"POST\",object=\"config\",status=\"200\"} 1",
        "salvor_serve_requests_total{method=\"POST\",object=\"data\",status=\"400\"} 1",
        "salvor_serve_refused_uploads_total{reason=\"hash\"} 1", "salvor_serve_received_bytes_total 4",
        "salvor_serve_sent_bytes_total 3", "salvor_serve_refused_logins_total 0", "salvor_serve_stored_bytes 3",
      ] { #expect(text.contains(line + "\n"), "\(line)\n\(text)") }
      try Files.replace(directory.file("metrics"), with: answer.body)
    }
    settings.metrics = .everybody
    try await withServer(settings) { port in
      let answer = try await send(.get, "http://127.0.0.1:\(port)/metrics")
      #expect(answer.status == 200)
    }
  }

  @Test func `TLS, and certificates of clients`() async throws {
    let certificates = try await Certificates()
    let directory = try TemporaryDirectory("serve")
    var settings = ServerSettings(directory: directory.path)
    settings.tls = .init(certificateFile: certificates.server, keyFile: certificates.serverKey)
    try await withServer(settings) { port in
      let url = "https://127.0.0.1:\(port)/r/"
      let store = try restStore(url, trust: WebTrust(authorityFile: certificates.authority))
      try await store.prepare()
      try await store.put(.config, [1, 2, 3])
      #expect(try await store.get(.config) == [1, 2, 3])
      // The system trusts nobody of that name.
      let stranger = try restStore(url)
      do throws(StoreError) {
        _ = try await stranger.get(.config)
        Issue.record("an unknown authority was trusted")
      } catch {
        guard case .permission = error else {
          Issue.record("\(error)")
          return
        }
      }
    }
    settings.tls?.clientAuthorityFile = certificates.authority
    try await withServer(settings) { port in
      let url = "https://127.0.0.1:\(port)/r/"
      let known = WebTrust(
        authorityFile: certificates.authority, clientCertificateFile: certificates.client)
      let config = try await restStore(url, trust: known).get(.config)
      #expect(config == [1, 2, 3])
      await #expect(throws: StoreError.self) {
        _ = try await restStore(url, trust: WebTrust(authorityFile: certificates.authority)).get(.config)
      }
    }
    settings.tls = .init(certificateFile: certificates.serverKey, keyFile: certificates.serverKey)
    await #expect(throws: ServerFailure.self) { try await withServer(settings) { _ in } }
  }

  @Test func `an address that is taken is said`() async throws {
    let directory = try TemporaryDirectory("serve")
    try await withServer(ServerSettings(directory: directory.path)) { port in
      var settings = ServerSettings(directory: directory.path)
      settings.port = port
      let server = RepositoryServer(settings)
      await #expect(throws: ServerFailure.self) { try await server.run() }
    }
  }
}

/// What a server said.
final class Lines: Sendable {
  private let lines = Mutex<[String]>([])
  func add(_ line: String) { lines.withLock { $0.append(line) } }
  var all: String { lines.withLock { $0.joined(separator: "\n") } }
}
