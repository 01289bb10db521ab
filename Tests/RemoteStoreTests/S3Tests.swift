import Core
import Foundation
import IO
import ObjectStoreContract
import ObjectStoreRetry
import S3Client
import Synchronization
import TestSupport
import Testing
import Vault

@testable import ObjectStoreS3

private func open(
  _ location: String, _ environment: [String: String] = [:], _ change: (inout S3Settings) -> Void = { _ in }
) throws -> any ObjectStore {
  var settings = S3Settings()
  change(&settings)
  let keys = ["AWS_ACCESS_KEY_ID": "test-access", "AWS_SECRET_ACCESS_KEY": "test-secret"]
  return try S3ObjectStoreFactory(
    environment: keys.merging(environment) { $1 }, time: SystemTime(), pool: .shared, settings: settings
  ).open(location)
}

@Suite("S3 store")
struct S3Tests {
  @Test func `moto keeps the contract, in parts and pages`() async throws {
    let server = try await BlockingPool.shared.run { try motoServer() }
    for (number, promise) in ObjectStorePromise.allCases.enumerated() {
      let store = try open("http://127.0.0.1:\(server.port)/bucket-\(number)/some/prefix") { settings in
        (settings.partThresholdBytes, settings.partBytes, settings.pageCount) = (8 << 20, 5 << 20, 7)
      }
      // What two clients do at the same moment may be answered with "not now".
      try await promise.check(RetryObjectStore(store, time: SystemTime(), randomness: SeededRandomness(seed: 1)))
    }
  }

  @Test(.timeLimit(.minutes(5))) func `Ceph keeps the contract, in parts and pages`() async throws {
    let server = try await CephServer.shared()
    for (number, promise) in ObjectStorePromise.allCases.enumerated() {
      let store = try open("http://127.0.0.1:\(server.port)/contract-\(number)/some/prefix") { settings in
        (settings.partThresholdBytes, settings.partBytes, settings.pageCount) = (8 << 20, 5 << 20, 7)
      }
      try await promise.check(RetryObjectStore(store, time: SystemTime(), randomness: SeededRandomness(seed: 1)))
    }
  }

  @Test func `rclone keeps the contract where conditions are ignored, and checks what is signed`() async throws {
    let directory = try TemporaryDirectory("s3")
    let server = try await BlockingPool.shared.run { try rcloneS3(directory.path) }
    for (number, promise) in ObjectStorePromise.ofRclone.enumerated() {
      let store = try open("http://127.0.0.1:\(server.port)/bucket-\(number)/prefix") { settings in
        (settings.partThresholdBytes, settings.partBytes) = (8 << 20, 5 << 20)
      }
      try await promise.check(RetryObjectStore(store, time: SystemTime(), randomness: SeededRandomness(seed: 2)))
    }
    let stranger = try open("http://127.0.0.1:\(server.port)/bucket-0/prefix", ["AWS_SECRET_ACCESS_KEY": "another"])
    do throws(StoreError) {
      _ = try await stranger.list(.data)
      Issue.record("a wrong signature was taken")
    } catch {
      guard case .permission = error else {
        Issue.record("\(error)")
        return
      }
      #expect(!error.report.description.contains("another"))
    }
  }

  /// Source: Amazon, "Authenticating Requests: Using the Authorization Header", examples.
  @Test func `signatures are Amazon's own examples'`() {
    let credential = S3Credential(
      accessKey: "AKIAIOSFODNN7EXAMPLE", secretKey: Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"))
    let time = Timestamp("2013-05-24T00:00:00Z") ?? Timestamp(seconds: 0)
    func signature(
      _ method: String, _ path: String, _ query: [(name: String, value: String)] = [],
      _ headers: [(name: String, value: String)] = [], body: String = ""
    ) -> Substring? {
      S3Signature(
        method: method, host: "examplebucket.s3.amazonaws.com", path: path, query: query, headers: headers,
        payloadHash: Digest.of(body).hex
      ).signed(by: credential, region: "us-east-1", at: time).first { $0.name == "authorization" }?.value.suffix(64)
    }
    #expect(
      signature("GET", "/test.txt", [], [("range", "bytes=0-9")])
        == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    #expect(
      signature(
        "PUT", "/test%24file.text", [],
        [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
        body: "Welcome to Amazon S3.") == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")
    #expect(
      signature("GET", "/", [("lifecycle", "")]) == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
    #expect(
      signature("GET", "/", [("prefix", "J"), ("max-keys", "2")])
        == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
  }

  @Test func `locations are restic's, and a bucket alone takes its server from the environment`() throws {
    func address(_ text: String, _ environment: [String: String] = [:]) throws -> S3Address {
      try S3Address(text, environment: environment)
    }
    let full = try address("http://127.0.0.1:9000/bucket/a/b/")
    #expect(full.path("a/b/data/00") == "/bucket/a/b/data/00" && full.host == "127.0.0.1:9000" && full.prefix == "a/b/")
    #expect(try address("s3.eu-central-1.amazonaws.com/bucket").host == "bucket.s3.eu-central-1.amazonaws.com")
    #expect(try address("//minio:9000/bucket").host == "minio:9000")
    let amazon = try address("bucket/x", ["AWS_REGION": "eu-north-1"])
    #expect(amazon.host == "bucket.s3.eu-north-1.amazonaws.com" && amazon.path("x/config") == "/x/config")
    let other = try address("bucket/x", ["AWS_ENDPOINT_URL": "http://h:1234", "SALVOR_S3_LOOKUP": "host"])
    #expect(other.host == "bucket.h:1234" && other.scheme == "http" && other.path("x/config") == "/x/config")
    for text in [
      "", "http://", "http://h", "http://h/", "https://user:secret@h/bucket", "bucket/../x", "a", "bu%20cket/x",
      "http://h/bucket?x=1",
    ] {
      #expect(throws: S3Failure.self, "\(text)") { _ = try address(text) }
    }
  }

  @Test func `storage classes are sent for the kinds they are for`() async throws {
    try await ScriptedServer.with { _, _ in
      [ScriptedServer.response(200)]
    } _: { server in
      let store = try open(
        "\(server.url)/bucket", ["SALVOR_S3_STORAGE_CLASS": "STANDARD_IA", "AWS_SESSION_TOKEN": "token"])
      for kind in [ObjectKind.data, .index] { try await store.put(ObjectName(kind, Digest.of("x")), Array("x".utf8)) }
      #expect(server.requests.map { $0.headers["x-amz-storage-class"] } == ["STANDARD_IA", nil])
      #expect(server.requests.allSatisfy { $0.headers["x-amz-security-token"] == "token" })
      #expect(server.requests.allSatisfy { $0.headers["x-amz-content-sha256"] == Digest.of("x").hex })
    }
    #expect(throws: StoreError.self) { _ = try open("bucket/x", ["SALVOR_S3_STORAGE_CLASS": "nonsense=X"]) }
  }

  @Test func `a server that knows no conditions is asked without`() async throws {
    try await ScriptedServer.with { request, _ in
      request.headers["if-none-match"] == nil
        ? [ScriptedServer.response(200)] : [ScriptedServer.response(501, "<Error><Code>NotImplemented</Code></Error>")]
    } _: { server in
      let store = try open("\(server.url)/bucket")
      for text in ["x", "y"] { try await store.put(ObjectName(.data, Digest.of(text)), Array(text.utf8)) }
      #expect(server.requests.map { $0.headers["if-none-match"] } == ["*", nil, nil])
    }
  }
}

@Suite("S3 store, failing servers")
struct S3FaultTests {
  private static let name = ObjectName(.data, Digest.of("content"))

  private func failure(
    _ steps: [ScriptedServer.Step], timeLimit: Duration = .milliseconds(700),
    _ call: @escaping (any ObjectStore) async throws(StoreError) -> Void
  ) async throws -> StoreError? {
    try await ScriptedServer.with { _, _ in
      steps
    } _: { server in
      let store = try open("\(server.url)/bucket", ["AWS_SECRET_ACCESS_KEY": "swordfish"]) {
        $0.timeLimit = timeLimit
      }
      do throws(StoreError) { try await call(store) } catch {
        #expect(!error.report.description.contains("swordfish"))
        return error
      }
      return nil
    }
  }

  @Test func `a server that fails, hangs up or resets is unavailable`() async throws {
    let faults: [(String, [ScriptedServer.Step])] = [
      ("500", [ScriptedServer.response(500, "<Error><Code>InternalError</Code></Error>")]),
      ("503", [ScriptedServer.response(503, "<Error><Code>SlowDown</Code></Error>")]), ("closed", [.close]),
      ("reset", [.reset]),
    ]
    for (what, steps) in faults {
      for call in StoreCall.allCases {
        let failure = try await failure(steps) { store throws(StoreError) in try await call.make(store) }
        guard case .unavailable? = failure else {
          Issue.record("\(what), \(call): \(String(describing: failure))")
          continue
        }
      }
    }
  }

  @Test func `bodies that break off and other bytes are refused`() async throws {
    for answer in [
      "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ncont",
      "HTTP/1.1 206 P\r\nContent-Range: bytes 0-2/7\r\nContent-Length: 3\r\n\r\nco",
    ] {
      for ending in [ScriptedServer.Step.close, .reset] {
        let failure = try await failure([.send(answer), ending]) { store throws(StoreError) in
          _ = answer.contains("206") ? try await store.get(Self.name, range: 0..<3) : try await store.get(Self.name)
        }
        guard case .unavailable? = failure else {
          Issue.record("\(String(describing: failure))")
          continue
        }
      }
    }
    let other = try await failure(
      [.send("HTTP/1.1 206 P\r\nContent-Range: bytes 4-6/7\r\nContent-Length: 3\r\n\r\nent")]
    ) { store throws(StoreError) in _ = try await store.get(Self.name, range: 0..<3) }
    guard case .unavailable? = other else {
      Issue.record("\(String(describing: other))")
      return
    }
  }

  @Test func `hostile lists are refused, foreign keys left out`() async throws {
    let id = Self.name.id?.hex ?? ""
    let entry = "<Contents><Key>data/\(id.prefix(2))/\(id)</Key><Size>7</Size></Contents>"
    @Sendable func list(_ inner: String) -> String { "<ListBucketResult>\(inner)</ListBucketResult>" }
    let bodies = [
      "", "not XML", "<html>", list("<IsTruncated>maybe</IsTruncated>"), list(entry),
      list("<IsTruncated>true</IsTruncated>" + entry),
      list("<IsTruncated>false</IsTruncated>" + entry + entry),
      list("<IsTruncated>false</IsTruncated><Contents><Key>data/x</Key></Contents>"),
      list("<IsTruncated>false</IsTruncated><Contents><Key>k</Key><Size>-7</Size></Contents>"),
      "<!DOCTYPE x [<!ENTITY a \"b\">]>" + list("<IsTruncated>false</IsTruncated>"),
      list("<IsTruncated>&unknown;</IsTruncated>"), String(repeating: "<a>", count: 100_000),
      // The same page for ever.
      list("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
      list("<IsTruncated>false</IsTruncated>" + entry.dropLast(3)),
    ]
    for body in bodies {
      let failure = try await failure([ScriptedServer.response(200, body)]) { store throws(StoreError) in
        _ = try await store.list(.data)
      }
      guard case .unavailable? = failure else {
        Issue.record("\(body.prefix(150)): \(String(describing: failure))")
        continue
      }
    }
    let foreign = ["data/zz/\(id)", "data/\(id)", "other/data/\(id.prefix(2))/\(id)", "data/a&amp;b%20c"].map {
      "<Contents><Key>\($0)</Key><Size>1</Size></Contents>"
    }
    try await ScriptedServer.with { _, _ in
      [
        ScriptedServer.response(
          200, "<?xml version=\"1.0\"?>\n" + list("<IsTruncated>false</IsTruncated>" + entry + foreign.joined()))
      ]
    } _: { server in
      let listed = try await open("\(server.url)/bucket").list(.data)
      #expect(listed == [ObjectInfo(Self.name, sizeBytes: 7)])
    }
  }

  @Test func `refusals say what to change`() async throws {
    func error(_ status: Int, _ code: String, _ more: String = "") async throws -> StoreError? {
      try await failure(
        [ScriptedServer.response(status, "<Error><Code>\(code)</Code>\(more)</Error>")], timeLimit: .seconds(30)
      ) { store throws(StoreError) in try await store.put(Self.name, Array("content".utf8)) }
    }
    guard case .permission? = try await error(403, "AccessDenied"),
      case .permission(let skew)? = try await error(403, "RequestTimeTooSkewed"), skew.contains("clock"),
      case .location? = try await error(404, "NoSuchBucket"),
      case .location(let region)? = try await error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>"),
      region.contains("AWS_REGION to eu-west-3"), case .corrupt? = try await error(400, "XAmzContentSHA256Mismatch"),
      case .full? = try await error(507, "x"), case .unavailable? = try await error(409, "OperationAborted")
    else {
      Issue.record("another kind of error")
      return
    }
  }

  @Test func `a failed part gives the upload up, and no object`() async throws {
    try await ScriptedServer.with { request, _ in
      if request.method == "HEAD" { return [.send("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")] }
      if request.path.contains("uploads=") {
        return [
          ScriptedServer.response(
            200, "<InitiateMultipartUploadResult><UploadId>up</UploadId></InitiateMultipartUploadResult>")
        ]
      }
      if request.path.contains("partNumber=2") { return [ScriptedServer.response(500)] }
      return [ScriptedServer.response(200, headers: ["ETag: \"x\""])]
    } _: { server in
      let store = try open("\(server.url)/bucket") { ($0.partThresholdBytes, $0.partBytes) = (10, 5) }
      let bytes = [UInt8](repeating: 1, count: 23)
      await #expect(throws: StoreError.self) { try await store.put(ObjectName(.data, Digest.of(bytes)), bytes) }
      // Another part may still be under way, and reach the server last.
      #expect(server.requests.contains { $0.method == "DELETE" && $0.path.contains("uploadId=up") })
      #expect(server.requests.allSatisfy { $0.method != "POST" || !$0.path.contains("uploadId=") }, "never completed")
    }
  }

  @Test func `an upload that fails after the server said yes has failed`() async throws {
    try await ScriptedServer.with { request, _ in
      if request.method == "HEAD" { return [.send("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")] }
      if request.path.contains("uploads=") {
        return [ScriptedServer.response(200, "<I><UploadId>up</UploadId></I>")]
      }
      if request.method == "POST" { return [ScriptedServer.response(200, "<Error><Code>InternalError</Code></Error>")] }
      return [ScriptedServer.response(200, headers: ["ETag: \"x\""])]
    } _: { server in
      let store = try open("\(server.url)/bucket") { ($0.partThresholdBytes, $0.partBytes) = (10, 5) }
      let bytes = [UInt8](repeating: 1, count: 23)
      await #expect(throws: StoreError.self) { try await store.put(ObjectName(.data, Digest.of(bytes)), bytes) }
    }
  }
}

@Suite("S3 credentials")
struct S3CredentialTests {
  /// The access keys that sign three requests, and how many requests of other kinds were made.
  private func keys(
    _ environment: [String: String], script: @escaping @Sendable (ScriptedServer.Request, Int) -> [ScriptedServer.Step]
  ) async throws -> (keys: [String], others: Int) {
    try await ScriptedServer.with { request, number in
      request.path.hasPrefix("/bucket")
        ? [.send("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")] : script(request, number)
    } _: { server in
      let environment = environment.mapValues { $0.replacing("SERVER", with: server.url) }
      let store = try S3ObjectStoreFactory(environment: environment, time: SystemTime(), pool: .shared).open(
        "\(server.url)/bucket")
      for _ in 0..<3 { _ = try await store.size(of: .config) }
      let signed = server.requests.filter { $0.path.hasPrefix("/bucket") }
      return (
        signed.map { request in
          let text = request.headers["authorization"] ?? ""
          return String(text.drop { $0 != "=" }.dropFirst().prefix { $0 != "/" })
        }, server.requests.count - signed.count
      )
    }
  }

  @Test func `the shared file, with its profiles`() async throws {
    let directory = try TemporaryDirectory("aws")
    try Files.createDirectory(directory.file(".aws"))
    try Files.replace(
      directory.file(".aws/credentials"),
      with: Array(
        "[default]\naws_access_key_id = ONE\naws_secret_access_key=x\n# [b]\n[b]\naws_access_key_id=TWO\naws_secret_access_key = y\n"
          .utf8))
    let home = ["HOME": directory.path, "AWS_EC2_METADATA_DISABLED": "true"]
    #expect(try await keys(home) { _, _ in [] }.keys == ["ONE", "ONE", "ONE"])
    #expect(try await keys(home.merging(["AWS_PROFILE": "b"]) { $1 }) { _, _ in [] }.keys.first == "TWO")
    await #expect(throws: StoreError.self) {
      _ = try await keys(home.merging(["AWS_PROFILE": "c"]) { $1 }) { _, _ in [] }
    }
    await #expect(throws: StoreError.self) {
      _ = try await keys(["HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"]) { _, _ in [] }
    }
  }

  @Test func `a machine's role, by the second version of its service alone`() async throws {
    let home = ["HOME": "/nonexistent", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "SERVER"]
    let found = try await keys(home) { request, _ in
      if request.method == "PUT" {
        let isAsked = request.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"
        return [ScriptedServer.response(isAsked ? 200 : 400, "session")]
      }
      guard request.headers["x-aws-ec2-metadata-token"] == "session" else { return [ScriptedServer.response(401)] }
      if request.path.hasSuffix("/") { return [ScriptedServer.response(200, "role")] }
      return [
        ScriptedServer.response(
          200,
          "{\"Code\":\"Success\",\"AccessKeyId\":\"ROLE\",\"SecretAccessKey\":\"x\",\"Token\":\"t\",\"Expiration\":\"2100-01-01T00:00:00Z\"}"
        )
      ]
    }
    #expect(found.keys == ["ROLE", "ROLE", "ROLE"])
    #expect(found.others == 3, "asked once, not for every request")
  }

  @Test func `temporary keys that are about to end are had anew`() async throws {
    let soon = (SystemTime().now() + .seconds(60)).description
    let found = try await keys(["HOME": "/nonexistent", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "SERVER"]) {
      request, number in
      if request.method == "PUT" { return [ScriptedServer.response(200, "session")] }
      if request.path.hasSuffix("/") { return [ScriptedServer.response(200, "role")] }
      return [
        ScriptedServer.response(
          200,
          "{\"AccessKeyId\":\"ROLE\(number)\",\"SecretAccessKey\":\"x\",\"Token\":\"t\",\"Expiration\":\"\(soon)\"}")
      ]
    }
    #expect(Set(found.keys).count == 3)
  }

  @Test func `a web identity, from moto's token service`() async throws {
    let directory = try TemporaryDirectory("aws")
    try Files.replace(directory.file("token"), with: Array("header.payload.signature\n".utf8))
    let server = try await BlockingPool.shared.run { try motoServer() }
    let store = try S3ObjectStoreFactory(
      environment: [
        "AWS_WEB_IDENTITY_TOKEN_FILE": directory.file("token"), "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/backup",
        "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:\(server.port)",
      ], time: SystemTime(), pool: .shared
    ).open("http://127.0.0.1:\(server.port)/bucket")
    try await store.prepare()
    try await store.put(.config, [1, 2, 3])
    #expect(try await store.get(.config) == [1, 2, 3])
  }
}
