import Core
import DriverKit
import IO
import S3Client
import Web

/// One bucket, or the part of it below a prefix, as a store.
struct BucketDriver: DataStoreDriver {
  let configuration: BucketConfiguration
  let environment: DriverEnvironment
  /// As ``BucketClient/beforeChange``.
  var beforeChange: @Sendable (_ request: String) throws(DriverError) -> Void = { _ throws(DriverError) in }

  init(_ configuration: BucketConfiguration, _ environment: DriverEnvironment) {
    (self.configuration, self.environment) = (configuration, environment)
  }

  var place: BucketPlace { configuration.place }

  // MARK: Clients

  func client() async throws(DriverError) -> BucketClient {
    let (configuration, environment) = (configuration, environment)
    let trust = WebTrust(authorityFile: configuration.authorityFile)
    let (web, plain): (WebClient, WebClient)
    do throws(WebFailure) {
      // The services that give credentials are others than the bucket's.
      (web, plain) = try await environment.pool.run { () throws(WebFailure) in (try WebClient(trust), try WebClient()) }
    } catch { throw .unreachable("\(configuration.endpoint): \(error)") }
    let credentials: S3Credentials
    if let accessKey = configuration.accessKey, let secretKey = configuration.secretKey {
      let token = configuration.sessionToken
      credentials = S3Credentials(client: plain, time: environment.time, pool: environment.pool) {
        () throws(S3Failure) in
        do throws(AnyFailure) {
          var held: Secret?
          if let token { held = try await environment.resolve(token) }
          return S3Credential(
            accessKey: try await environment.resolve(accessKey).revealed(),
            secretKey: try await environment.resolve(secretKey), sessionToken: held)
        } catch { throw error.isCancellation ? .cancelled : .permission(error.report.summary) }
      }
    } else {
      var variables = ["HOME": "/nonexistent"]
      variables["AWS_SHARED_CREDENTIALS_FILE"] = configuration.credentialsFile
      variables["AWS_PROFILE"] = configuration.profile
      credentials = S3Credentials(
        environment: variables, region: configuration.region, client: plain, time: environment.time,
        pool: environment.pool)
    }
    let address = S3Address(
      scheme: configuration.scheme, endpoint: configuration.endpoint, bucket: place.bucket, prefix: "",
      region: configuration.region, lookup: configuration.lookup)
    return BucketClient(
      connection: S3Connection(
        address, client: web, credentials: credentials, time: environment.time, timeLimit: configuration.timeout,
        stallLimit: configuration.timeout),
      time: environment.time, pageCount: configuration.pageCount, beforeChange: beforeChange)
  }

  func workspaceClient(_ live: BucketClient) -> BucketClient {
    BucketClient(
      connection: live.connection.to(bucket: configuration.workspace.bucket), time: live.time,
      pageCount: live.pageCount,
      beforeChange: beforeChange)
  }

  /// The store's own name of a key: `nil` for what is the workspace's, or the prefix itself.
  func own(_ key: ObjectKey) -> ObjectKey? {
    if configuration.workspace.bucket == place.bucket, !configuration.workspace.prefix.isEmpty,
      key.bytes.starts(with: Array(configuration.workspace.prefix.utf8))
    {
      return nil
    }
    return key.dropping(place.prefix)
  }

  func whole(_ key: ObjectKey) -> ObjectKey { ObjectKey(place.prefix + key.text) }

  // MARK: What it can do

  static let outside =
    "nothing makes the writers of a bucket wait, and this one keeps no versions that a moment could be told from; "
    + "switch versioning on"
  static let outsideEvents =
    "events come after the objects they tell of, so what was written last may not be known yet; leave 'events' out"

  func traits() async throws(DriverError) -> DriverTraits {
    let client = try await client()
    guard try await client.exists() else { throw .unreachable("\(client.location): there is no such bucket") }
    let isVersioned = try await client.isVersioned()
    var notes: [String] = []
    if configuration.takesVersions, !isVersioned {
      notes.append("'versions' is on, and the bucket keeps none")
    }
    let hold: HoldSupport =
      if configuration.eventsFile != nil {
        .outside(why: Self.outsideEvents)
      } else if isVersioned {
        .moment(
          how: "what was written after the mark is replaced by the version before it, told by the server's own clock; "
            + "where its times have whole seconds the mark waits for the next")
      } else {
        .outside(why: Self.outside)
      }
    return DriverTraits(version: "", hold: hold, notes: notes)
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    BucketCapture(self, context)
  }

  // MARK: No server of ours

  func start() async throws(DriverError) {
    let client = try await client()
    guard try await client.exists() else { throw .unreachable("\(client.location): there is no such bucket") }
  }

  /// Nobody can make a bucket stop; its users are stopped by whoever runs them.
  func stop() async throws(DriverError) {}

  // MARK: Queries

  /// `COUNT [prefix]`, `LIST [prefix]`, `GET key`, `HEAD key`.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let words = text.split(maxSplits: 1, omittingEmptySubsequences: true, whereSeparator: \.isWhitespace).map(
      String.init)
    let operand = words.count > 1 ? words[1] : nil
    let client = try await client()
    let driver = self
    do {
      return try await environment.time.withTimeLimit(limit.timeout) {
        try await driver.answer(words.first?.uppercased(), operand, limit, client)
      }
    } catch {
      if error is TimeLimitExceeded { throw .queryFailed("it took longer than \(limit.timeout.brief)") }
      throw DriverError(error)
    }
  }

  private func answer(
    _ verb: String?, _ operand: String?, _ limit: QueryLimit, _ client: BucketClient
  ) async throws(DriverError) -> QueryResult {
    switch (verb, operand) {
    case ("COUNT", _):
      var count = 0
      try await client.list(place.prefix + (operand ?? "")) { listed throws(DriverError) in
        if own(listed.key) != nil { count += 1 }
      }
      return QueryResult(columns: ["objects"], rows: [["\(count)"]])
    case ("LIST", _):
      var (rows, isTruncated) = ([[String?]](), false)
      do throws(DriverError) {
        try await client.list(place.prefix + (operand ?? "")) { listed throws(DriverError) in
          guard let key = own(listed.key) else { return }
          guard rows.count < limit.rows else {
            isTruncated = true
            throw .queryFailed("enough")
          }
          rows.append([key.text, "\(listed.size)", listed.etag, listed.modified.description])
        }
      } catch { if !isTruncated { throw error } }
      return QueryResult(columns: ["key", "size", "etag", "modified"], rows: rows, isTruncated: isTruncated)
    case ("GET", let name?):
      let key = ObjectKey(place.prefix + name)
      guard own(key) != nil, let bytes = try await client.get(key, limitBytes: 16 << 20) else {
        return QueryResult(columns: ["content"], rows: [])
      }
      return QueryResult(columns: ["content"], rows: [[String(decoding: bytes, as: UTF8.self)]])
    case ("HEAD", let name?):
      let key = ObjectKey(place.prefix + name)
      guard own(key) != nil, let head = try await client.head(key) else {
        return QueryResult(columns: ["name", "value"], rows: [])
      }
      let metadata = ObjectMetadata(head)
      let pairs =
        [("size", head.headers["content-length"] ?? ""), ("etag", BucketClient.etag(head.headers["etag"]))]
        + metadata.requestHeaders.sorted { $0.name < $1.name }.map { ($0.name, $0.value) }
      return QueryResult(
        columns: ["name", "value"], rows: pairs.prefix(limit.rows).map { [$0.0, $0.1] },
        isTruncated: pairs.count > limit.rows)
    default: throw .queryFailed("it is none of COUNT [prefix], LIST [prefix], GET key, HEAD key")
    }
  }
}
