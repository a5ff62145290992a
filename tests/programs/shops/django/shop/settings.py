SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
