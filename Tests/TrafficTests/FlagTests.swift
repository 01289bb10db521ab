import Core
import Flags
import IO
import TestSupport
import Testing
import Web

/// A small service that speaks OFREP, and misbehaves where a key says so.
private final class FlagServer: Sendable {
  let process: ServerProcess
  private let directory: TemporaryDirectory
  var base: String { "http://127.0.0.1:\(process.port)" }

  private static let program = """
    import sys, json
    from http.server import ThreadingHTTPServer, BaseHTTPRequestHandler
    flags = {
        "on": {"value": True, "reason": "STATIC", "variant": "yes"},
        "off": {"value": False, "reason": "STATIC", "variant": "no"},
        "pool": {"value": 12.5, "reason": "SPLIT", "variant": "big"},
        "colour/of:it": {"value": "green", "reason": "TARGETING_MATCH", "variant": "g"},
        "code-default": {"reason": "DEFAULT"},
        "switched-off": {"reason": "DISABLED"},
    }
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def log_message(self, *words): pass
        def say(self, status, value):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.headers.get("authorization") != "Bearer sesame": return self.say(401, {})
            path = "/ofrep/v1/evaluate/flags"
            if self.path == path:
                listed = [dict(flag, key=key) for key, flag in flags.items()]
                return self.say(200, {"flags": listed + [{"key": "bad", "errorCode": "PARSE_ERROR", "errorDetails": "odd"}]})
            if not self.path.startswith(path + "/"): return self.say(500, {})
            key = self.path[len(path) + 1:].replace("%2F", "/").replace("%3A", ":")
            if key == "by-region":
                region = asked["context"].get("region")
                if region is None: return self.say(400, {"key": key, "errorCode": "INVALID_CONTEXT", "errorDetails": "no region"})
                return self.say(200, {"key": key, "value": region == "eu", "reason": "TARGETING_MATCH"})
            if key == "broken": return self.say(500, b"oh")
            if key == "garbage": return self.say(200, b"oh")
            if key == "another": return self.say(200, {"key": "on", "value": True, "reason": "STATIC"})
            if key not in flags: return self.say(404, {"key": key, "errorCode": "FLAG_NOT_FOUND"})
            self.say(200, dict(flags[key], key=key))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
    """

  /// Blocks.
  init() throws {
    directory = try TemporaryDirectory("flags")
    let port = try freePort()
    try Files.replace(directory.file("flags.py"), with: Array(Self.program.utf8))
    process = try ServerProcess(port: port, ["/usr/bin/python3", directory.file("flags.py"), "\(port)"])
  }
}

@Suite("Flags") struct FlagTests {
  private func key(_ text: String) throws -> FlagKey { try #require(FlagKey(text)) }

  @Test(.timeLimit(.minutes(10))) func `a service is asked, and whatever it says has a type or a reason`() async throws
  {
    let server = try await BlockingPool.shared.run { try FlagServer() }
    let client = FlagClient(FlagService(server.base, web: try WebClient(), token: { Secret("sesame") }))
    let on = await client.boolean(try key("on"), default: false)
    #expect(on.value == .bool(true) && on.reason == .standing && on.variant == "yes" && on.errorCode == nil)
    #expect(await client.number(try key("pool"), default: 1).value.number == 12.5)
    #expect(await client.string(try key("colour/of:it"), default: "red").value == .string("green"))

    let wrong = await client.string(try key("on"), default: "x")
    #expect(wrong.value == .string("x") && wrong.errorCode == .type && wrong.reason == .error)
    let missing = await client.boolean(try key("nobody"), default: true)
    #expect(missing.value == .bool(true) && missing.errorCode == .notFound)
    let fallback = await client.boolean(try key("code-default"), default: true)
    #expect(fallback.value == .bool(true) && fallback.reason == .fallback && fallback.errorCode == nil)
    for (name, code) in [("garbage", FlagErrorCode.parse), ("another", .parse), ("broken", .general)] {
      #expect(await client.boolean(try key(name), default: false).errorCode == code, "\(name)")
    }

    #expect(await client.value(try key("by-region")).errorCode == .context)
    var european = client
    european.context["region"] = "eu"
    #expect(await european.boolean(try key("by-region"), default: false).value == .bool(true))

    let all = try await client.source.all(client.context)
    #expect(all.map(\.key) == ["bad", "code-default", "colour/of:it", "off", "on", "pool", "switched-off"])
    #expect(all.first?.errorCode == .parse)
  }

  @Test(.timeLimit(.minutes(10))) func `a kill switch allows nothing but a plain yes`() async throws {
    let server = try await BlockingPool.shared.run { try FlagServer() }
    let client = FlagClient(FlagService(server.base, web: try WebClient(), token: { Secret("sesame") }))
    #expect(await client.allows(try key("on")).isAllowed)
    for name in ["off", "pool", "nobody", "code-default", "switched-off", "garbage", "another", "broken", "by-region"] {
      #expect(await !client.allows(try key(name)).isAllowed, "\(name)")
    }
    let stranger = FlagClient(FlagService(server.base, web: try WebClient(), token: { Secret("open") }))
    #expect(await !stranger.allows(try key("on")).isAllowed)
    await BlockingPool.shared.run { _ = server.process.end() }
    let gone = await client.allows(try key("on"))
    #expect(!gone.isAllowed && gone.answer.errorCode == .notReady)
  }

  @Test func `a file holds flags as flagd has them`() async throws {
    let directory = try TemporaryDirectory("flags")
    let text = """
      {"flags": {
        "on": {"state": "ENABLED", "variants": {"yes": true, "no": false}, "defaultVariant": "yes"},
        "off": {"state": "ENABLED", "variants": {"yes": true, "no": false}, "defaultVariant": "no"},
        "size": {"state": "ENABLED", "variants": {"s": 3}, "defaultVariant": "s"},
        "disabled": {"state": "DISABLED", "variants": {"yes": true}, "defaultVariant": "yes"},
        "aimed": {"state": "ENABLED", "variants": {"yes": true}, "defaultVariant": "yes", "targeting": {"if": [true, "yes"]}},
        "torn": {"state": "ENABLED", "variants": {"yes": true}, "defaultVariant": "maybe"}}}
      """
    try Files.replace(directory.file("flags.json"), with: Array(text.utf8))
    let client = FlagClient(FlagFile(directory.file("flags.json")))
    #expect(await client.allows(try key("on")).isAllowed)
    #expect(await client.number(try key("size"), default: 0).value.number == 3)
    for name in ["off", "size", "disabled", "aimed", "torn", "nobody"] {
      #expect(await !client.allows(try key(name)).isAllowed, "\(name)")
    }
    #expect(await client.boolean(try key("disabled"), default: true).value == .bool(true))
    #expect(try await client.source.all([:]).map(\.key) == ["aimed", "disabled", "off", "on", "size", "torn"])

    // What is changed counts at once; what is torn, or gone, denies.
    for broken in ["{", "[]", "{\"flags\": 3}", ""] {
      try Files.replace(directory.file("flags.json"), with: Array(broken.utf8))
      #expect(await !client.allows(try key("on")).isAllowed)
    }
    try Files.removeTree(directory.file("flags.json"))
    #expect(await client.allows(try key("on")).answer.errorCode == .notReady)
  }

  @Test(arguments: ["", "/a", "a b", "ä", "a/../b", String(repeating: "a", count: 201)])
  func `what can't be a key is none`(_ text: String) { #expect(FlagKey(text) == nil) }
}
