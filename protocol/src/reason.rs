//! Reason codes (MQTT 5.0 section 2.4) and their 3.1.1 CONNACK equivalents.

macro_rules! reason_codes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        /// A reason code of MQTT 5.0; values of 0x80 and above are failures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode { $(#[doc = $text] $name = $value,)* }

        impl ReasonCode {
            /// Returns the code with this value, `None` where the standard names none.
            pub fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }

            /// Returns the standard's name of the code, lower case.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reason_codes! {
    Success = 0x00, "success";
    GrantedQoS1 = 0x01, "granted qos 1";
    GrantedQoS2 = 0x02, "granted qos 2";
    DisconnectWithWill = 0x04, "disconnect with will message";
    NoMatchingSubscribers = 0x10, "no matching subscribers";
    NoSubscriptionExisted = 0x11, "no subscription existed";
    ContinueAuthentication = 0x18, "continue authentication";
    ReAuthenticate = 0x19, "re-authenticate";
    UnspecifiedError = 0x80, "unspecified error";
    MalformedPacket = 0x81, "malformed packet";
    ProtocolError = 0x82, "protocol error";
    ImplementationSpecificError = 0x83, "implementation specific error";
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version";
    ClientIdentifierNotValid = 0x85, "client identifier not valid";
    BadUserNameOrPassword = 0x86, "bad user name or password";
    NotAuthorized = 0x87, "not authorized";
    ServerUnavailable = 0x88, "server unavailable";
    ServerBusy = 0x89, "server busy";
    Banned = 0x8a, "banned";
    ServerShuttingDown = 0x8b, "server shutting down";
    BadAuthenticationMethod = 0x8c, "bad authentication method";
    KeepAliveTimeout = 0x8d, "keep alive timeout";
    SessionTakenOver = 0x8e, "session taken over";
    TopicFilterInvalid = 0x8f, "topic filter invalid";
    TopicNameInvalid = 0x90, "topic name invalid";
    PacketIdentifierInUse = 0x91, "packet identifier in use";
    PacketIdentifierNotFound = 0x92, "packet identifier not found";
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded";
    TopicAliasInvalid = 0x94, "topic alias invalid";
    PacketTooLarge = 0x95, "packet too large";
    MessageRateTooHigh = 0x96, "message rate too high";
    QuotaExceeded = 0x97, "quota exceeded";
    AdministrativeAction = 0x98, "administrative action";
    PayloadFormatInvalid = 0x99, "payload format invalid";
    RetainNotSupported = 0x9a, "retain not supported";
    QoSNotSupported = 0x9b, "qos not supported";
    UseAnotherServer = 0x9c, "use another server";
    ServerMoved = 0x9d, "server moved";
    SharedSubscriptionsNotSupported = 0x9e, "shared subscriptions not supported";
    ConnectionRateExceeded = 0x9f, "connection rate exceeded";
    MaximumConnectTime = 0xa0, "maximum connect time";
    SubscriptionIdentifiersNotSupported = 0xa1, "subscription identifiers not supported";
    WildcardSubscriptionsNotSupported = 0xa2, "wildcard subscriptions not supported";
}

impl ReasonCode {
    /// Says whether the code is a failure (0x80 and above).
    pub fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }
}
